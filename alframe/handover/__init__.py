"""Export and prediction: a run's trained networks, applied to other images. Files are safetensors, JSON and ONNX, never pickles."""
