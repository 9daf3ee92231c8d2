"""What is the smallest setting of a codec that keeps what is required?"""
