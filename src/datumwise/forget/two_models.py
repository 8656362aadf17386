"""Two language models that answer as one: their logits are combined at every token, and generation caches both."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from datumwise.errors import ModelMismatch

__all__ = ["TwoModels"]


class TwoModels(PreTrainedModel, GenerationMixin):
    """Base of the combinations: subclasses say what becomes of two logits.

    ``generate``, the forward's arguments and the output are those of any causal language model of transformers. The cache of
    keys and values holds the layers of both models, one after the other, so that beams and batches are reordered in both.

    Parameters
    ----------
    base, other : causal language models
        Of one vocabulary; neither is copied or changed, but both are put into evaluation mode.
    """

    base_model_prefix = "base"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _is_stateful = False
    _tied_weights_keys = None

    def __init__(self, base: Any, other: Any) -> None:
        sizes = [int(one.config.get_text_config().vocab_size) for one in (base, other)]
        if sizes[0] != sizes[1]:
            raise ModelMismatch(
                f"the models have vocabularies of {sizes[0]:,} and {sizes[1]:,} tokens", remedy="use one tokenizer"
            )
        super().__init__(copy.deepcopy(base.config))
        self.first, self.second = base, other
        if getattr(base, "generation_config", None) is not None:
            self.generation_config = copy.deepcopy(base.generation_config)
        self.eval()

    def combined(self, z: Tensor, other: Tensor) -> Tensor:
        """Logits from those of both models, each (B, T, V)."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        return next(self.first.parameters()).device

    def get_input_embeddings(self) -> Any:
        return self.first.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """None: no one layer gives these logits."""
        return None

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """As of any causal language model; ``labels`` give the mean cross-entropy of the combined logits as ``loss``."""
        keep = self.config.use_cache if use_cache is None else use_cache
        keep = bool(keep) and not self.training
        shared = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": keep, **options}
        shared |= {"logits_to_keep": logits_to_keep} if not _is_zero(logits_to_keep) else {}
        shared.pop("return_dict", None)
        caches = self._caches(past_key_values) if keep or past_key_values is not None else (None, None)
        outputs = [
            model(input_ids=input_ids, past_key_values=cache, **shared)
            for model, cache in zip((self.first, self.second), caches, strict=True)
        ]
        z, other = (output.logits for output in outputs)
        logits = self.combined(z, other.to(z))
        past = None
        if keep:
            past = past_key_values if past_key_values is not None else DynamicCache(config=self.first.config)
            past.layers = [layer for output in outputs for layer in output.past_key_values.layers]
        loss = None
        if labels is not None:
            shifted = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
            loss = torch.nn.functional.cross_entropy(shifted, labels[:, 1:].reshape(-1).to(shifted.device))
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past)

    def _caches(self, past: Any) -> tuple[Any, Any]:
        """One cache for each model over the layers of ``past``; empty ones where that holds no position."""
        one, two = DynamicCache(config=self.first.config), DynamicCache(config=self.second.config)
        if past is None or past.get_seq_length() == 0:
            return one, two
        k = len(one.layers) or self.first.config.get_text_config().num_hidden_layers
        rest = len(two.layers) or self.second.config.get_text_config().num_hidden_layers
        if len(past.layers) != k + rest:
            raise ModelMismatch(
                f"the cache holds {len(past.layers)} layers, these two models have {k} and {rest}",
                remedy="use a cache that this model returned",
            )
        one.layers, two.layers = past.layers[:k], past.layers[k:]
        return one, two


def _is_zero(keep: int | Tensor) -> bool:
    return isinstance(keep, int) and keep == 0
