"""Attribution: how much each position or pixel of an image contributes to the score of a class."""
