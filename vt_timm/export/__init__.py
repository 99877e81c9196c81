"""Models as files for other machines: ONNX, torch.export and AOTInductor, in 32, 16 and 8 bits."""
