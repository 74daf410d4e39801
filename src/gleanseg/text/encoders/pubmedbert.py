"""PubMedBERT, now called BiomedBERT: BERT trained on abstracts of PubMed from scratch. MIT."""

from typing import final

from gleanseg.text.encoders.bert_folder import HubEncoder


@final
class PubMedBert(HubEncoder):
    """``microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract``; 768 numbers."""

    poolings = ("mean", "cls", "embeddings", "token_ids")
    repository = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
