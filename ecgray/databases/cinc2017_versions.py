"""Which version of the CinC2017 labels a reference table is, told by its content.

The challenge published three: original (February 2017), v2 (as ``REFERENCE.csv``) and v3. They differ in 412 of the
8,528 records; the 336 of them that the public training copies at hand hold stand below.
"""

from __future__ import annotations

from collections.abc import Mapping

VERSIONS = ("original", "v2", "v3")

_EDITED = 0.05
"""Share of the telling records that may contradict a version which a user has corrected here and there."""

# Labels in the order of VERSIONS, and the numbers of the records that bear them.
_DIFFERENCES = {
    "AAN": "01056 01259 01301 02464 03782 03841 04350 05081 05283 06975 07432 07626 07870",
    "AAO": "00155 01774 02594 02978 03013 03374 03389 04136 04261 04863 06605 06894 07429 07836 08193",
    "AA~": "04473",
    "ANN": "07039 07074 07586 07655 07782",
    "AOA": "02668",
    "AOO": "00100 01279 01829 02222 02438 02690 03181 04387 04414 04858 06489 07806 08041 08219",
    "A~A": "05053 08133 08408",
    "A~O": "00660 02014",
    "A~~": (
        "00164 00524 00591 01966 02614 03215 03363 03443 04133 04899 06501 06738 06781 06918 06935 07183 07374 "
        "07592 07631 08043 08171 08377"
    ),
    "NNA": "01359 01766 02613 03397 04348",
    "NNO": "02639 02882 03026 04505 05013 05531 07073 07941 08097 08206 08232",
    "NOA": "01256",
    "NOO": "05595",
    "N~N": "03685",
    "N~~": (
        "00034 00106 00125 00196 00201 00307 00370 00474 00537 00619 00690 00700 00774 00813 00984 01048 01160 "
        "01253 01270 01427 01429 01529 01585 01706 01755 01763 01888 01965 02032 02055 02113 02196 02411 02514 "
        "02693 02706 02717 02750 02829 03117 03118 03149 03239 03352 03489 03565 03596 03739 03946 04020 04257 "
        "04325 04329 04366 04673 04707 04819 04890 04946 04966 05134 05233 05408 05507 06157 06438 06573 06588 "
        "06595 06622 06830 06841 06982 07109 07198 07331 07356 07471 07568 07616 07625 07736 07818 07859 07893 "
        "07983 08046 08204 08281 08372 08489"
    ),
    "OAA": (
        "00005 00264 00493 00589 02325 03499 04201 05670 05703 05726 05931 05935 05987 06057 06213 07093 07845 08047"
    ),
    "ONN": "00192 00229 00779 01441",
    "ONO": "01043 01547",
    "OOA": (
        "00282 00776 00902 01614 01824 02183 02584 02643 04320 04895 05587 05616 05768 05775 05789 05848 05874 "
        "05889 05909 05989 06132 06146 06245 06251 06286 06297 06306 06373 06648 07649 08294 08521"
    ),
    "OON": (
        "00066 00891 01726 02098 02960 03014 03276 03286 04495 05098 05186 05329 05729 06230 06587 06855 07240 "
        "07450 07506 07741 07840 07892 07977"
    ),
    "OO~": "02933 08409",
    "O~A": "05163",
    "O~N": "06223 06862",
    "O~O": "02997 03814",
    "O~~": (
        "00022 00056 00139 00445 00761 00988 01063 01502 01578 01917 02069 02133 02181 02364 02419 02479 02607 "
        "02874 02961 03039 03050 03183 03199 03408 03719 03829 03848 03934 04231 04303 04503 04555 04644 04685 "
        "04812 04853 04873 04913 04916 04918 05018 05063 05076 05100 05503 05766 05822 05960 05992 06048 06241 "
        "06262 06534 06769 06897 07001 07382 07489 07786 08213 08402 08464 08468 08493"
    ),
}
_TELLING = {f"A{number}": labels for labels, numbers in _DIFFERENCES.items() for number in numbers.split()}


def possible_versions(labels: Mapping[str, str]) -> set[str]:
    """The versions that a table (record -> label) can be: one where its content tells, all three where it holds no
    record on which they differ, or follows none of them."""
    shared = [record for record in _TELLING if record in labels]
    wrong = {
        version: sum(labels[record] != _TELLING[record][place] for record in shared)
        for place, version in enumerate(VERSIONS)
    }
    fewest = min(wrong.values())
    if fewest > _EDITED * len(shared):
        return set(VERSIONS)
    return {version for version, count in wrong.items() if count == fewest}
