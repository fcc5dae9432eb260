"""A frozen BERT-type encoder with low-rank updates on its upper layers and a GoEmotions head.

Knows nothing of training data or of what features are used for. Only the trained part is stored: the encoder
comes from the zoo.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.scorer.labels import GOEMOTIONS_LABELS
from model.scorer.settings import EmotionNetworkSettings
from model.zoo.resolve import resolve

MODEL_TYPE = "empamba-emotion-network"
ADAPTED = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)


class LowRankLinear(nn.Module):
    """A frozen linear map plus a trained one of low rank (Hu et al., LoRA), starting as the frozen map."""

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen = frozen
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)
        nn.init.normal_(self.down.weight, std=frozen.in_features**-0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, states: Tensor) -> Tensor:
        return self.frozen(states) + self.up(self.down(states))

    def merged(self) -> nn.Linear:
        """The sum as one linear map."""
        with torch.no_grad():
            self.frozen.weight += self.up.weight @ self.down.weight
        return self.frozen


class EmotionHead(nn.Module):
    """Standardised views → tanh hidden layer (the feature) → one logit a label."""

    def __init__(self, inputs: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.dense = nn.Linear(inputs, hidden)
        self.labels = nn.Linear(hidden, len(GOEMOTIONS_LABELS))
        self.before_dense = nn.Dropout(dropout / 2)
        self.before_labels = nn.Dropout(dropout)

    def standardise_by(self, views: Tensor) -> None:
        """Take centre and scale from `views`, float [n, inputs]."""
        self.center.copy_(views.mean(0))
        self.scale.copy_(views.std(0).clamp_min(1e-5))

    def hidden_states(self, views: Tensor) -> Tensor:
        """Features float [n, hidden] in (-1, 1) of views float [n, inputs]."""
        return torch.tanh(self.dense(self.before_dense((views - self.center) / self.scale)))

    def forward(self, views: Tensor) -> Tensor:
        """Logits float [n, 28]."""
        return self.labels(self.before_labels(self.hidden_states(views)))


class EmotionNetwork(nn.Module):
    """Encoder, updates and head. `trained_state` is the part that GoEmotions has trained."""

    def __init__(self, encoder: nn.Module, settings: EmotionNetworkSettings, dropout: float = 0.0) -> None:
        super().__init__()
        depth = encoder.config.num_hidden_layers
        if max(settings.views) > depth:
            raise ValueError(f"views {settings.views}: the encoder has {depth} layers")
        self.settings = settings
        self.encoder = encoder.requires_grad_(False)
        self.head = EmotionHead(len(settings.views) * encoder.config.hidden_size, settings.hidden, dropout)
        for layer in self._upper_layers() if settings.lora_rank else ():
            for name in ADAPTED:
                layer.set_submodule(name, LowRankLinear(layer.get_submodule(name), settings.lora_rank))

    def _upper_layers(self) -> Sequence[nn.Module]:
        return self.encoder.encoder.layer[self.settings.lora_from : max(self.settings.views)]

    def lower(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """States float [B, L, width] after layer `lora_from`; training leaves them as they are."""
        states = self.encoder.embeddings(input_ids=input_ids)
        for layer in self.encoder.encoder.layer[: self.settings.lora_from]:
            states = _apply(layer, states, mask)
        return states

    def views(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pooled layers float [B, views × width] from what `lower` gives; mask is bool [B, L]."""
        pooled = [self._pool(states, mask)] if self.settings.lora_from in self.settings.views else []
        for number, layer in enumerate(self._upper_layers(), start=self.settings.lora_from + 1):
            states = _apply(layer, states, mask)
            if number in self.settings.views:
                pooled.append(self._pool(states, mask))
        return torch.cat(pooled, dim=1)

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        if self.settings.pooling == "first":
            return states[:, 0]
        kept = mask.unsqueeze(-1).to(states.dtype)
        return (states * kept).sum(1) / kept.sum(1)

    def trained_state(self) -> dict[str, Tensor]:
        """Every tensor that does not come from the zoo, by name."""
        return {
            name: tensor.detach().clone()
            for name, tensor in self.state_dict().items()
            if name.startswith("head.") or ".down." in name or ".up." in name
        }

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Take the trained part from `state`; ValueError unless it names exactly the tensors of this network."""
        own = self.trained_state()
        wrong = sorted(set(own) ^ set(state)) or [
            name for name in own if own[name].shape != state[name].shape
        ]
        if wrong:
            raise ValueError(f"emotion network: tensors {wrong[:3]} do not fit the settings {self.settings}")
        self.load_state_dict(state, strict=False)

    def merge(self) -> None:
        """Fold the low-rank updates into the encoder's maps: same output, less work, no further training."""
        for layer in self._upper_layers():
            for name in ADAPTED:
                module = layer.get_submodule(name)
                if isinstance(module, LowRankLinear):
                    layer.set_submodule(name, module.merged())


def _apply(layer: nn.Module, states: Tensor, mask: Tensor) -> Tensor:
    """One encoder layer under a key mask, bool [B, L]."""
    bias = torch.zeros(mask.shape, dtype=states.dtype).masked_fill(~mask, torch.finfo(states.dtype).min)
    output = layer(states, bias[:, None, None, :])
    return output[0] if isinstance(output, tuple) else output


def load_encoder(name: str) -> nn.Module:
    """The encoder `name` of the zoo in float32 and evaluation mode, without pooling layer."""
    from transformers import BertModel

    return BertModel.from_pretrained(resolve(name), dtype=torch.float32, add_pooling_layer=False).eval()


def load_network(folder: Path) -> EmotionNetwork:
    """The network stored in `folder`, merged, in evaluation mode. ValueError when the folder does not fit."""
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if described.get("model_type") != MODEL_TYPE or tuple(described["labels"]) != GOEMOTIONS_LABELS:
        raise ValueError(f"{folder}: not an emotion network with the 28 GoEmotions labels")
    settings = EmotionNetworkSettings(**described["network"])
    network = EmotionNetwork(load_encoder(settings.base), settings)
    stored = load_file(folder / "model.safetensors")
    network.load_trained_state({name: tensor.float() for name, tensor in stored.items()})
    network.merge()
    return network.eval()
