"""The public InceptionV3 and its weights on disk: load, save, convert, download, and the formats of other programs."""

MODEL_FILE = "model.safetensors"  # in a run folder and in a folder saved by save_pretrained
BEST_FILE = "best.safetensors"  # in a run folder: the model of the best epoch
SAVED_MODEL_FILE = "saved_model.pb"  # in the folder of a TensorFlow SavedModel
