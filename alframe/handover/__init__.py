"""What a run is for: its trained networks, taken out of it to look at other images. Files are safetensors, JSON and ONNX; nothing is unpickled."""
