"""BERT base, uncased: what LLM-SegNet names. Apache-2.0."""

from typing import final

from gleanseg.text.encoders.bert_folder import HubEncoder


@final
class BertBase(HubEncoder):
    """``bert-base-uncased``, or any folder with a BERT and its WordPiece vocabulary; 768 numbers for the base size."""

    poolings = ("mean", "cls", "embeddings", "token_ids")
    repository = "bert-base-uncased"
