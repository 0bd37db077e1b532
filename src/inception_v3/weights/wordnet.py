"""The WordNet ids of ImageNet's classes, such as n01440764 for tench, by which its folders are called."""

from functools import cache
from importlib.resources import files

from inception_v3.weights.formats.weights import default_class_names, imagenet_classes


@cache
def wordnet_ids() -> list[str]:
    """The ids of the 1,000 classes, in the order of `imagenet_classes`."""
    lines = (files("inception_v3.weights") / "wordnet_ids.txt").read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def names_of_ids(class_names: list[str]) -> list[str]:
    """The names of ImageNet's classes for a list of nothing but their ids, and any other list as it is.

    Names that two classes share keep their ids: crane (n02012849).
    """
    if not _are_ids(class_names):
        return class_names
    names = dict(zip(wordnet_ids(), imagenet_classes(), strict=True))
    shown = [names.get(each, each) for each in class_names]
    return [
        f"{name} ({each})" if shown.count(name) > 1 else name for name, each in zip(shown, class_names, strict=True)
    ]


def names_for_model(class_names: list[str], of_model: list[str]) -> list[str]:
    """The names of a data set's classes as a model calls them, if one of the two uses WordNet ids and the other names.

    For a model with all of ImageNet's classes, these are the numbers of the classes: two names occur twice.
    """
    if {*class_names} <= {*of_model} or _are_ids(class_names) == _are_ids(of_model):
        return class_names
    if _are_ids(of_model):
        ids = dict(zip(imagenet_classes(), wordnet_ids(), strict=True))
        return [ids.get(name, name) for name in class_names]
    if of_model == default_class_names(len(of_model)):
        numbers = {each: str(number) for number, each in enumerate(wordnet_ids())}
        return [numbers.get(name, name) for name in class_names]
    names = dict(zip(class_names, names_of_ids(class_names), strict=True))
    return [names[name] for name in class_names]


def _are_ids(class_names: list[str]) -> bool:
    """Whether all names are ids of ImageNet's classes, the background class aside."""
    names = {*class_names} - {"background"}
    return bool(names) and names <= {*wordnet_ids()}
