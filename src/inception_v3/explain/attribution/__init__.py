"""Attribution: how much each place or pixel of an image contributes to the score of a class."""
