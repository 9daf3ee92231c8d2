"""How does ZFP store numbers, as streams of its library and as arithmetic on tensors?"""
