"""Writes reference.json: texts and the vectors that the reference implementation gives them.

The reference is the PyTorch BERT of `transformers` on the model files that `make model` fetches, with the mean pooling
and normalisation that the model's modules.json prescribes, in f32, one text at a time, so that no padding takes part.

    pip install torch transformers numpy
    python make_reference.py MODEL_FOLDER > reference.json
"""

import json
import sys

import torch
from transformers import AutoTokenizer, BertModel

TEXTS = [
    "memory",
    "The quick brown fox jumps over the lazy dog.",
    "What did we decide about the database migration last Tuesday?",
    "a",
    "",
    " \t\n ",
    "?!",
    "0123456789 3.14159 1e-12 0xdeadbeef 2026-11-22T23:12:00Z",
    "fn merge_top_k(lists: Vec<Vec<Hit>>, k: usize) -> Vec<Hit> {\n    lists.into_iter().flatten().take(k).collect()\n}",
    "SELECT id, embedding <=> $1 AS distance FROM frames WHERE owner = 'x' ORDER BY 2 LIMIT 10;",
    "def f(x):\n\treturn {k: v for k, v in x.items() if not k.startswith('_')}",
    "Größe, Straße, façade, naïve, Ærøskøbing, İstanbul, Dvořák, coöperate",
    "机器学习是人工智能的一个分支。それは面白いですね。기억은 중요하다.",
    "Привет, мир! Καλημέρα κόσμε. مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก",
    "Emoji 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪, zero\u200bwidth, soft\u00adhyphen, null\u0000byte, replacement \ufffd, math 𝔐𝕀ℝ𝔸 ≤ ∑∞",
    "e\u0301te\u0301 and été are the same words in two normal forms; ﬁne ligatures are not.",
    "supercalifragilisticexpialidocious antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 150 + " is one word of a hundred and fifty letters",
    "[CLS] special [SEP] tokens [MASK] in [PAD] the text [UNK]",
    "https://example.org/path/to/page?query=value&other=1#fragment user@example.com /usr/share/doc/README.md",
    "An embedding maps a text to a point in space, so that texts of similar meaning lie near each other. " * 10,
    # Exactly as long as the model takes.
    "The storage node writes each frame to the log before it answers. "
    "Replicas apply committed entries in order, and a search reads one replica of every shard. " * 7
    + "again " * 30,
]

# The model's trained limit, as sentence_bert_config.json states it: longer texts are split before embedding.
MAX_TOKENS = 256


def main(folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval().float()
    cases = []
    for text in TEXTS:
        encoded = tokenizer(text, return_tensors="pt", truncation=False)
        ids = encoded["input_ids"]
        assert ids.shape[1] <= MAX_TOKENS, (text, ids.shape)
        with torch.no_grad():
            hidden = model(**encoded).last_hidden_state[0]
        vector = torch.nn.functional.normalize(hidden.mean(dim=0), dim=0)
        cases.append({"text": text, "ids": ids[0].tolist(), "vector": [float(f"{x:.8f}") for x in vector.tolist()]})
    print("[")
    print(",\n".join(json.dumps(case) for case in cases))
    print("]")


if __name__ == "__main__":
    main(sys.argv[1])
