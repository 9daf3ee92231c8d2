"""What is the smallest setting of a codec at which the requirements hold?"""
