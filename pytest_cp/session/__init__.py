"""What is one run of pytest told, and what does it remember?"""
