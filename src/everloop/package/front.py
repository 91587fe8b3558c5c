"""The feature tree as the front of a package's graph. Knows nothing of what comes behind it."""

from collections.abc import Sequence

from everloop.package.export import Front
from everloop.package.graph import OPSET as MODEL_OPSET
from everloop.package.matrix import Source, Tensors
from everloop.package.nodes import EXTENSIONS, OPSET
from everloop.package.render import render
from everloop.package.tensors import Tensor, missing, nowhere
from everloop.records import InputColumn
from everloop.spec.tree import FeatureTree


def front(tree: FeatureTree, inputs: Sequence[InputColumn]) -> Front:
    """One source a feature: the raw column where it is one as it stands, else the tensors that compute it."""
    parts = render(tree, inputs)
    sources: dict[str, Source] = {}
    for name, feature in parts.features.items():
        raw = parts.raw.get(name)
        if raw is not None:
            sources[name] = raw
            continue
        tensor = Tensor(feature.type, feature.value, feature.missing)
        mask = missing(parts.graph, tensor)
        sources[name] = Tensors(value=feature.value, missing=mask or nowhere(parts.graph, tensor))
    read = [name for each in sources.values() if isinstance(each, Tensors) for name in (each.value, each.missing)]
    nodes, initializers = parts.graph.needed(read)
    return Front(
        sources=sources,
        nodes=nodes,
        initializers=initializers,
        opset=OPSET if nodes else MODEL_OPSET,
        extensions=parts.extensions,
        domains={EXTENSIONS: 1} if parts.extensions else {},
    )
