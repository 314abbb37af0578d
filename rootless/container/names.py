"""Names for containers that were given none: an adjective and a bird."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths

_HOW = """
agile amber ardent azure brave breezy bright calm candid clever cosy crisp curious deft
eager early fair fleet fluent free fresh gentle glad golden grand happy hardy honest
humble jolly keen kind light lively loyal lucid lucky merry mild modest neat nimble
noble patient placid plucky polite proud quick quiet ready serene sharp shy silent
silver smart snug sober spry stable steady sunny swift tidy tranquil upbeat vivid warm
wise witty zesty
""".split()
_WHO = """
avocet bittern blackbird bluetit brambling bullfinch bunting buzzard chaffinch chough
coot cormorant crane crow cuckoo curlew dipper dove dunlin dunnock eagle egret eider
falcon finch fulmar gannet goldcrest goldfinch goose grebe greenfinch grouse gull
harrier heron hobby hoopoe ibis jackdaw jay kestrel kingfisher kite knot lapwing lark
linnet magpie mallard martin merlin nightjar nuthatch oriole osprey owl oystercatcher
partridge petrel pipit plover puffin quail rail raven redpoll redshank redstart robin
rook ruff sanderling shrike siskin skua skylark snipe sparrow spoonbill starling stilt
stonechat stork swallow swan swift teal tern thrush treecreeper turnstone wagtail
warbler waxwing wheatear whimbrel wigeon woodcock woodlark wren wryneck
""".split()


def generate(paths: Paths) -> str:
    """A name that is free now; `claim_name` decides."""
    while True:
        dice = int.from_bytes(os.urandom(8), "little")
        name = f"{_HOW[dice % len(_HOW)]}_{_WHO[dice // 1000 % len(_WHO)]}"
        if not os.path.lexists(f"{paths.names}/{name}"):
            return name
        name += str(dice // 10**6 % 1000)
        if not os.path.lexists(f"{paths.names}/{name}"):
            return name
