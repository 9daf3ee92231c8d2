"""How does JPEG store images, as streams of its library and as arithmetic on tensors?"""
