"""From YAML and overrides to built parts: schema, checks, construction. The only importer of hydra.

All errors are reported together, before any data is read. Nothing below this room ever sees a config object.
"""
