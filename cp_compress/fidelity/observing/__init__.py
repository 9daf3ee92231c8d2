"""What does one model do on one data set? Logits, layers and gradients, each computed once."""
