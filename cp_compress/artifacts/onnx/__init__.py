"""How is an ONNX file checked and run as a model?"""
