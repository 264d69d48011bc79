"""Label maps: ImageNet's order, ImageNet-A's 200 classes, and the nine classes of the Backgrounds Challenge."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from clarep_ray.data.class_list import IMAGENET_CLASSES, ClassList, match
from clarep_ray.data.records import shown
from clarep_ray.data.sources.files import Listing, folder_names

_IMAGENET_A = """
6 11 13 15 17 22 23 27 30 37 39 42 47 50 57 70 71 76 79 89 90 94 96 97 99 105 107 108 110 113 124 125 130 132 143 144
150 151 207 234 235 254 277 283 287 291 295 298 301 306-311 313-315 317 319 323 324 326 327 330 334-336 347 361 363
372 378 386 397 400-402 404 407 411 416 417 420 425 428 430 437 438 445 456 457 461 462 470 472 483 486 488 492 496
514 516 528 530 539 542 543 549 552 557 561 562 569 572 573 575 579 589 606 607 609 614 626 627 640-643 658 668 677
682 684 687 701 704 719 736 746 749 752 758 763 765 768 773 774 776 779 780 786 792 797 802-804 813 815 820 823 831
833 835 839 845 847 850 859 862 870 879 880 888 890 897 900 907 913 924 932-934 937 943 945 947 951 954 956 957 959
971 972 980 981 984 986-988
"""
BACKGROUND_CLASSES: tuple[str, ...] = (
    *("00_dog", "01_bird", "02_wheeled vehicle", "03_reptile", "04_carnivore"),
    *("05_insect", "06_musical instrument", "07_primate", "08_fish"),
)
_BACKGROUNDS = (
    "151-170 173-268",
    "7-24 87-100 127-146",
    "407 408 428 436 444 468 511 547 555 561 565 569 573 586 603 609 612 627 656 661 665 670 671 675 690 705 717 734"
    " 751 757 791 802 803 817 820 829 847 864 866 867 870 880",
    "33-68",
    "269-280 286-299 356-362 387 388",
    "300-326",
    "401 402 420 432 486 494 513 541 546 558 566 577 579 593 594 641 642 683 684 687 699 776 822 875 881 889",
    "365-384",
    "0-6 389-397",
)


def _numbers(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for word in text.split():
        first, _, last = word.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


IMAGENET_A = _numbers(_IMAGENET_A)
"""ImageNet-A's classes as labels of ImageNet-1k, in the order of their wnids."""


def background_answers() -> tuple[int, ...]:
    """Return the Backgrounds Challenge's class of each ImageNet label; -1 for the 630 that have none."""
    answers = [-1] * IMAGENET_CLASSES
    for number, text in enumerate(_BACKGROUNDS):
        for label in _numbers(text):
            answers[label] = number
    return tuple(answers)


def class_folders(
    root: Path, classes: ClassList, name: str, partial: bool, labels: Collection[int] | None = None
) -> list[tuple[Path, int]]:
    """Return the class folders below `root` and their labels among `classes`, in the order of the folders.

    Folders are WordNet ids, names or label numbers; `labels` are those that the benchmark has, None for all. Raises
    ValueError for a folder that is no class, or for missing ones where not a part was asked for.
    """
    folders = {each: root / each for each in folder_names(root, Listing())}
    known = set(range(len(classes)) if labels is None else labels)
    if not folders:
        raise ValueError(f"{name}: {str(root)!r} has no class folders; valid: {len(known)}, such as {classes}")
    found = match(ClassList.of_folders(folders), classes, f"{name}: {str(root)!r}", "the benchmark")
    pairs = list(zip(found.theirs.names, found.labels, strict=True))
    strange = [folder for folder, label in pairs if label not in known]
    if strange:
        raise ValueError(
            f"{name}: {str(root)!r} has the folder {shown(strange[0])!r}, none of its {len(known)} classes"
        )
    missing = sorted(known - set(found.labels))
    if missing and not partial:
        first = classes.names[missing[0]]
        raise ValueError(f"{name}: {str(root)!r} lacks {len(missing)} class folders, first: {first!r}")
    return [(folders[folder], label) for folder, label in pairs]
