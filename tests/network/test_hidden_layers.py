"""Hidden layers between PreLogits and Logits, and the output activation, in the network, the engines and the commands."""
