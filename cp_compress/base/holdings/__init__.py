"""What does a model hold: which tensors and other content, and what can nobody see into?"""
