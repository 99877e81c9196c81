"""Models as files for other machines, written here; ONNX files are read in pipelines/onnx_file.py."""
