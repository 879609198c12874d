"""How questions become token ids: without the special tokens that a tokenizer adds by itself, but for one BOS."""

from typing import Any

from lm_eval.models.huggingface import HFLM

from rankadaptor.models.tokenizers import with_bos


class PlainLM(HFLM):
    """lm-eval's backend of a loaded model. `add_bos_token` is whether exactly one BOS stands in front of every text;
    with lm-eval's own backend that is so only for tokenizers which add one, and no end of text, by themselves.
    """

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a text, context and continuation alike; the last `left_truncate_len` of them."""
        ids = self.tokenizer.encode(string, add_special_tokens=False)
        if self.add_bos_token:
            ids = with_bos(ids, self.tokenizer)
        return ids[-left_truncate_len:] if left_truncate_len else ids
