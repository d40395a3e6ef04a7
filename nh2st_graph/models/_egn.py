"""EGN: a vision transformer over a spot's patch, guided by training spots with the most similar patches."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch_geometric.data import Data

from nh2st_graph._errors import ConfigError, setting
from nh2st_graph._settings import Positive, SettingError, Share
from nh2st_graph.models._exemplars import ExemplarConfig, ExemplarGuided
from nh2st_graph.models._inputs import as_images
from nh2st_graph.models._registry import register_method
from nh2st_graph.nn import PatchEncoder, TokenBlock

__all__ = ["EGN", "EGNConfig"]

#: Spots that are predicted at a time, which bounds the memory of a whole section.
_AT_ONCE = 256

#: Scale of the scores of attention pooling, and its weight against the plain mean.
_POOL_SHARPNESS, _POOL_WEIGHT = 0.1, 0.5


class EGNConfig(ExemplarConfig):
    """EGN's settings, as published; see :class:`nh2st_graph.models.EGN`.

    Attributes
    ----------
    name
        The method.
    k
        Number of exemplars of a spot: 9 in the paper, 6 in the authors' command.
    similarity, weight_correlation
        See :class:`nh2st_graph.models.ExemplarGuided`.
    input
        Tokens of the transformer. ``pixels``, as published: squares of the patch, whose pixels come first in the
        features (``features.encoder: pixels:256,timm:resnet50``); the other features find the exemplars. ``features``:
        places of a feature map (``features.encoder: timm-map:resnet18``), or all features as one token; the mean over
        the places finds the exemplars.
    side, patch_side
        With ``pixels``: sides of the patch and of a square, in pixels.
    tokens
        With ``features``: places of the feature map, 49 for most networks at 224 pixels; 1 for features without places.
    width, depth, heads, head_width, hidden
        Size of embeddings; number of transformer blocks; number and size of attention heads; hidden units.
    bridge_every, bridge_heads, bridge_width
        Blocks from one bridge to the next; gates of a bridge for each token; and size of each gate's part. Gates and
        size are 8 and 64 in the authors' command and the paper's ablation, and 16 and 64 in its text.
    projector_depth
        Layers of the projection of spots' and exemplars' features into a common space.
    dropout
        Dropout of the blocks and the projector.
    keep_revised
        A spot's view keeps the message of its exemplars, as in the paper but not in the authors' code.
    """

    name: Literal["egn"] = "egn"
    k: Positive = 9
    input: Literal["pixels", "features"] = "pixels"
    side: Positive = 256
    patch_side: Positive = 32
    tokens: Positive = 49
    width: Positive = 1024
    depth: Positive = 8
    heads: Positive = 16
    head_width: Positive = 64
    hidden: Positive = 4096
    bridge_every: Positive = 2
    bridge_heads: Positive = 8
    bridge_width: Positive = 64
    projector_depth: Positive = 2
    dropout: Share = 0.0
    keep_revised: bool = False

    @property
    def n_tokens(self) -> int:
        """Number of tokens of a spot."""
        return (self.side // self.patch_side) ** 2 if self.input == "pixels" else self.tokens

    @model_validator(mode="after")
    def _check(self) -> EGNConfig:
        if self.input == "pixels" and self.side % self.patch_side:
            raise SettingError(
                f"{setting('model.patch_side', self.patch_side)} does not divide {setting('model.side', self.side)}"
            )
        return self


@register_method
class EGN(ExemplarGuided):
    r"""EGN, the exemplar guided network (Yang et al., WACV 2023), as in the authors' code (``Yan98/EGN``, ``v1``).

    A spot has tokens :math:`Z`, squares of its patch, and a view :math:`h` of the whole patch; its exemplars :math:`j`
    have features and scaled expression :math:`y_j`. A projector gives :math:`h` from the spot's features, :math:`r_j`
    from an exemplar's features and expression, and :math:`s_j = S y_j`. The vision transformer adds learned positions
    to its tokens before each attention, and every second block has an exemplar bridging block between attention and
    feed-forward:

    .. math::
        [m_j, n_j] &= \sigma\big(\operatorname{MLP}(h - r_j, r_j)\big), \qquad
        \hat h = h + \operatorname{mean}_j m_j \odot V s_j, \qquad
        r_j \leftarrow \operatorname{LN}(r_j + n_j \odot V s_j) \\
        O &= U \operatorname{LN}(Z) \cdot \sigma\big(G \operatorname{LN}(\hat h)\big), \qquad
        Z \leftarrow Z + A\, O, \qquad h \leftarrow h + B \operatorname{mean}(O)

    with a gate for each token and head. The prediction is linear in :math:`h` and the tokens pooled by attention. The
    loss is the squared error plus 1 minus the correlation, on targets scaled from 0 to 1; see :class:`ExemplarGuided`.

    The authors train 50 epochs of batches of 32 by AdamW at a learning rate of 5e-4, with warm restarts, and a weight
    decay of 1e-4, and keep the weights with the best score on the test sections. Their features are those of ResNet-50,
    with Euclidean distance (in the paper, those of a StyleGAN's extractor, and exemplars of other patients); their
    targets are :math:`\log_{10}(1 + \text{count})`, here those of ``data.normalize``.

    Oddities of the published form, with the switch for each:

    - :math:`\hat h` sets the gates and is then discarded; in the paper :math:`h \leftarrow \hat h + \dots`:
      ``keep_revised``.
    - The paper does not normalise :math:`r_j`, and adds one half of :math:`O` to :math:`Z` and the other to :math:`h`,
      where the code adds all of it to both. The hidden layer of the comparison has four times ``bridge_width`` units,
      independent of the number of heads. As in the code; no switch.
    - The last bridge updates exemplars that nothing reads afterwards. The table of positions has a row for a class
      token that does not exist (not here), and there is a linear map that is never called (not here).
    - A gene that is constant in a batch has a correlation of 0 in the authors' loss; here it is left out.

    Parameters
    ----------
    settings, n_features, n_genes, patch_encoder
        As in :class:`Network`.

    Raises
    ------
    ConfigError
        If the features are not the pixels of a patch followed by others, or no map of ``tokens`` places.
    """

    Settings: ClassVar[type[EGNConfig]] = EGNConfig
    config: EGNConfig

    def __init__(
        self, settings: EGNConfig, n_features: int, n_genes: int, patch_encoder: PatchEncoder | None = None
    ) -> None:
        super().__init__(settings, n_features, n_genes, patch_encoder)
        token_size, key_size = _sizes(settings, n_features, patch_encoder)
        width, n_tokens = settings.width, settings.n_tokens
        self.embedding = nn.Linear(token_size, width)
        self.positions = nn.Parameter(torch.randn(n_tokens, width))
        self.projector = _Projector(key_size, n_genes, width, settings.projector_depth, settings.dropout)
        self.blocks = nn.ModuleList(
            TokenBlock(width, settings.heads, settings.head_width, settings.hidden, settings.dropout)
            for _ in range(settings.depth)
        )
        self.bridges = nn.ModuleDict(
            {
                str(i): ExemplarBridge(
                    width, n_tokens, settings.bridge_heads, settings.bridge_width, settings.keep_revised
                )
                for i in range(settings.bridge_every - 1, settings.depth, settings.bridge_every)
            }
        )
        self.score = nn.Linear(width, width)
        self.head = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, n_genes))

    def keys(self, data: Data) -> Tensor:
        """Give the features that find exemplars, ``(n_spots, n_key)``: all but the pixels, or the mean over places."""
        x = super().keys(data)
        if self.config.input == "pixels":
            return x[:, 3 * self.config.side**2 :]
        return x.unflatten(1, (-1, self.config.tokens)).mean(dim=2)

    def estimate(self, data: Data, exemplars: Tensor, spots: Tensor) -> Tensor:
        """Estimate scaled expression, a few spots at a time; see :class:`ExemplarGuided`."""
        keys = self.keys(data).to(self.positions)
        return torch.cat(
            [
                self(self._tokens(data, some), keys[some], *self.bank(exemplars[some.to(exemplars.device)]))
                for some in spots.split(_AT_ONCE)
            ]
        )

    def forward(self, tokens: Tensor, key: Tensor, exemplar_keys: Tensor, exemplar_expression: Tensor) -> Tensor:
        """Estimate the scaled expression of spots, each by itself.

        Parameters
        ----------
        tokens
            ``(n, n_tokens, token_size)``.
        key
            Features of the spots, ``(n, n_key)``.
        exemplar_keys, exemplar_expression
            Features and scaled expression of their exemplars, ``(n, k, n_key)`` and ``(n, k, n_genes)``.

        Returns
        -------
        ``(n, n_genes)``.
        """
        view, exemplars, expression = self.projector(key, exemplar_keys, exemplar_expression)
        h = self.embedding(tokens) + self.positions
        for i, block in enumerate(self.blocks):
            assert isinstance(block, TokenBlock)
            h = h + block.attend(h + self.positions)
            if str(i) in self.bridges:
                h, view, exemplars = self.bridges[str(i)](h, view, exemplars, expression)
            h = h + block.feed_forward(h)
        score = self.score(h)
        attended = (score * (_POOL_SHARPNESS * score).softmax(dim=1)).sum(dim=1)
        pooled = score.mean(dim=1) + _POOL_WEIGHT * attended
        estimated: Tensor = self.head(torch.cat([pooled, view], dim=1))
        return estimated

    def _tokens(self, data: Data, spots: Tensor) -> Tensor:
        read = self.image_input(data)[spots]
        if self.config.input == "features":
            features = read.to(self.positions) if self.patch_encoder is None else self.patch_encoder(read)
            # A flattened feature map is ordered by channel, then by place.
            return features.unflatten(1, (-1, self.config.tokens)).transpose(1, 2)
        images = as_images(read[:, : 3 * self.config.side**2].to(self.positions))
        squares = images.unfold(1, self.config.patch_side, self.config.patch_side)
        squares = squares.unfold(2, self.config.patch_side, self.config.patch_side)
        # From (n, row, column, colour, row within, column within) to colours last.
        return squares.permute(0, 1, 2, 4, 5, 3).flatten(start_dim=3).flatten(start_dim=1, end_dim=2)


class _Projector(nn.Module):
    """Projection of the features of spots, and of the features and expression of exemplars, into a common space."""

    def __init__(self, key_size: int, n_genes: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.spot = nn.Linear(key_size, width)
        self.exemplar = nn.Linear(key_size + n_genes, width)
        self.expression = nn.Linear(n_genes, width)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, width),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(width, width),
                nn.Dropout(dropout),
            )
            for _ in range(depth)
        )

    def forward(self, key: Tensor, exemplar_keys: Tensor, expression: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        view, exemplars = self.spot(key), self.exemplar(torch.cat([exemplar_keys, expression], dim=-1))
        for layer in self.layers:
            view, exemplars = view + layer(view), exemplars + layer(exemplars)
        return view, exemplars, self.expression(expression)


class ExemplarBridge(nn.Module):
    """The exemplar bridging block; see :class:`EGN` for its formula.

    Parameters
    ----------
    width
        Size of embeddings.
    n_tokens
        Number of tokens of a spot.
    heads, head_width
        Number of gates of a token, and size of each gate's part.
    keep_revised
        Whether the view keeps the message of the exemplars.

    Shapes
    ------
    - **input:** tokens ``(n, n_tokens, width)``, view ``(n, width)``, exemplars and their expression ``(n, k, width)``
    - **output:** the first three, updated
    """

    def __init__(self, width: int, n_tokens: int, heads: int, head_width: int, keep_revised: bool = False) -> None:
        super().__init__()
        self.heads, self.n_tokens, self.keep_revised = heads, n_tokens, keep_revised
        inner, compared = heads * head_width, 4 * head_width
        self.compare = nn.Sequential(nn.Linear(2 * width, compared), nn.SiLU(), nn.Linear(compared, 2 * width))
        self.value = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, heads * n_tokens))
        self.read = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner))
        self.to_tokens = nn.Linear(inner, width, bias=False)
        self.to_view = nn.Linear(inner, width, bias=False)

    def forward(
        self, tokens: Tensor, view: Tensor, exemplars: Tensor, expression: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Let tokens, view and exemplars update each other. See the class for shapes."""
        value = self.value(expression)
        difference = view.unsqueeze(1) - exemplars
        of_view, of_exemplars = self.compare(torch.cat([difference, exemplars], dim=-1)).sigmoid().chunk(2, dim=-1)
        revised = view + (of_view * value).mean(dim=1)
        gate = self.gate(revised).sigmoid().unflatten(-1, (self.heads, self.n_tokens)).transpose(1, 2)
        read = (self.read(tokens).unflatten(-1, (self.heads, -1)) * gate.unsqueeze(-1)).flatten(start_dim=2)
        view = (revised if self.keep_revised else view) + self.to_view(read.mean(dim=1))
        return tokens + self.to_tokens(read), view, self.norm(exemplars + of_exemplars * value)


def _sizes(settings: EGNConfig, n_features: int, patch_encoder: PatchEncoder | None) -> tuple[int, int]:
    """Give the sizes of a token, and of the features that find exemplars."""
    if settings.input == "features":
        size, rest = divmod(n_features, settings.tokens)
        if rest:
            raise ConfigError(
                f"{setting('features.encoder')} gives {n_features} features a spot, which are no map of "
                f"{settings.tokens} places; give {setting('model.tokens', 1)}, or an encoder such as "
                f"{setting('features.encoder', 'timm-map:resnet18')}"
            )
        return size, size
    n_pixels = 3 * settings.side**2
    if patch_encoder is not None or n_features <= n_pixels:
        raise ConfigError(
            f"{setting('features.encoder')} gives {n_features} features a spot, and EGN with "
            f"{setting('model.input', 'pixels')} reads {n_pixels} pixel values, then the features that find exemplars; "
            f"give {setting('features.encoder', f'pixels:{settings.side},timm:resnet50')} and "
            f"{setting('features.finetune', False)}, or {setting('model.input', 'features')}"
        )
    return 3 * settings.patch_side**2, n_features - n_pixels
