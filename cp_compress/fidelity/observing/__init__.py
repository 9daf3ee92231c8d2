"""What does one model compute on one data set? Logits, layers and gradients, each computed once."""
