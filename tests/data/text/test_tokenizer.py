"""Tokenizers: trained ones, published files, and what the rest asks of them."""

import json
import random
import subprocess
import sys

import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.data.text import (
    piece_memory,
    tokenizer,
    tokenizer_families,
    tokenizer_files,
    tokenizer_training,
)

TEXTS = [
    "The quick brown fox jumps over the lazy dog; it jumped again and was jumping still.",
    "Naïve façades, 42 übermäßig lange Wörter! (And what of [MASK] or </s>?)\n\n  x = f(1)\ty",
    "Brown dogs and lazy foxes were fixing boxes. Nothing is quicker than a fox.",
] * 4


@pytest.fixture(scope="module")
def trained():
    return {
        family: tokenizer_training.train(lambda: iter(TEXTS), family, size)
        for family, size in (("wordpiece", 150), ("bpe", 350))
    }


def tokens(made, text):
    return [made.backend.id_to_token(i) for i in made.encode([text])[0].tolist()]


@pytest.mark.parametrize("family", ["wordpiece", "bpe"])
def test_special_ids_and_vocabulary(trained, family):
    made = trained[family]
    names = tokenizer_families.FAMILIES[family]
    for kind, name in names.items():
        assert made.backend.token_to_id(name) == getattr(made.vocabulary, kind)
    assert made.vocabulary.special == tuple(range(5))
    assert made.vocabulary == tokenizer_families.family_vocabulary(family, made.vocabulary.size)
    assert list(names) == (
        ["pad", "unk", "cls", "sep", "mask"]
        if family == "wordpiece"
        else ["cls", "pad", "sep", "unk", "mask"]
    )


def test_default_sizes_are_those_of_the_published_models():
    assert tokenizer_families.family_vocabulary("wordpiece").size == 30_522
    assert tokenizer_families.family_vocabulary("bpe").size == 50_265


TRAIN = """
import sys
from ssl_jax.data.text import tokenizer_training
texts = {texts!r}
for family, size in (("wordpiece", 150), ("bpe", 350)):
    print(tokenizer_training.train(lambda: iter(texts), family, size).digest)
"""


@pytest.mark.slow
def test_training_is_the_same_in_every_process(trained):
    # The library alone is not: hash tables decide the ids of WordPiece's continuing letters.
    command = [sys.executable, "-c", TRAIN.format(texts=TEXTS)]
    for _ in range(2):
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert out.split() == [trained["wordpiece"].digest, trained["bpe"].digest]


def test_byte_level_bpe_gives_the_text_back(trained):
    made = trained["bpe"]
    for text in (*TEXTS[:3], "  two  blanks ", "日本語 and 😀", "\ttab\r\n\n"):
        ids, lengths = made.encode([text, "", text])
        assert lengths.tolist() == [len(ids) // 2, 0, len(ids) // 2]
        assert made.decode(ids[: lengths[0]]) == text


def test_wordpiece_gives_the_words_back(trained):
    made = trained["wordpiece"]
    ids, _ = made.encode(["The  QUICK brown fox,\njumped."])
    assert made.decode(ids) == "the quick brown fox, jumped."
    assert made.decode(made.encode(["naïve façades"])[0]) == "naive facades"
    cased = tokenizer_training.train(lambda: iter(TEXTS), "wordpiece", 300, lowercase=False)
    assert cased.decode(cased.encode(["Naïve Brown fox"])[0]) == "Naïve Brown fox"


@pytest.mark.parametrize("family", ["wordpiece", "bpe"])
def test_text_that_looks_like_a_special_token_is_text(trained, family):
    made = trained[family]
    ids, _ = made.encode(["[MASK] <mask> [CLS] <s> </s> [SEP] [PAD] <pad>"])
    unknown = made.vocabulary.unk
    assert not set(ids.tolist()) & set(made.vocabulary.special) - {unknown}


@pytest.mark.parametrize("family", ["wordpiece", "bpe"])
def test_sentinels_have_the_last_ids_and_no_text_is_one(family):
    made = tokenizer_training.train(lambda: iter(TEXTS), family, 300, sentinels=3)
    size = made.vocabulary.size
    assert made.vocabulary == tokenizer_families.family_vocabulary(family, size, 3)
    assert made.vocabulary.sentinels == (size - 1, size - 2, size - 3)
    assert made.backend.id_to_token(size - 1) == "<extra_id_0>"
    again = tokenizer.Tokenizer.from_json(made.to_json())
    assert again.vocabulary == made.vocabulary and again.digest == made.digest
    text = "the <extra_id_1> fox<extra_id_0>"
    assert not set(made.encode([text])[0].tolist()) & set(made.vocabulary.sentinels)
    ids = made.encode_with_sentinels(text)
    words = [made.encode([word])[0].tolist() for word in ("the", " fox")]
    assert ids == [*words[0], size - 2, *words[1], size - 1]
    assert made.encode_with_sentinels("fox jumps ") == made.encode(["fox jumps "])[0].tolist()
    with pytest.raises(UserError, match="has <extra_id_3>, but the tokenizer has 3 sentinels"):
        made.encode_with_sentinels("<extra_id_3>")


BLANKS = [" ", "  ", "\n", "\t ", "\r\n", "\u00a0", "\u2003 ", "\x1c", "\x0b", "\u200b", "\x85"]
OTHERS = [
    "fox", "jumps!", "don't", "'self", "...", "naïve", "e\u0301", "\u0301", "日本", "ΣΑΣ", "İ", "ǅ",
    "=\u0338", "42", "½", "²", "😀", "\x00", "\ufffd", "\x07", "\x7f", "_", "[MASK]", "a" * 120,
    "'s", "،", "x=1;", "“Is", "it?”", "’s", "e.g.", "3.5", "١", "x\x1fy", "\x1f.",
]  # fmt: skip


@pytest.mark.parametrize("family", ["wordpiece", "bpe"])
def test_what_is_remembered_is_what_the_library_makes(trained, family, monkeypatch):
    made = tokenizer.Tokenizer.from_json(trained[family].to_json())
    assert made._memory is not None
    monkeypatch.setattr(piece_memory, "_REMEMBERED", 300)  # so that it has to forget
    draw = random.Random(0)
    for _ in range(60):
        texts = [
            "".join(draw.choice(draw.choice([BLANKS, OTHERS])) for _ in range(draw.randrange(30)))
            for _ in range(20)
        ]
        texts = [text.strip("\x1c\x1f") for text in texts]  # no text ends so: it is stripped
        expected = [
            encoding.ids for encoding in made.backend.encode_batch(texts, add_special_tokens=False)
        ]
        ids, lengths = made.encode(texts)
        assert lengths.tolist() == list(map(len, expected))
        assert ids.tolist() == [i for own in expected for i in own]
        assert len(made._memory._known) <= 300
        assert all(len(piece or "") <= 32 for piece in made._memory._known)


def test_only_pieces_known_to_be_independent_are_remembered(trained):
    parts = json.loads(trained["bpe"].to_json())
    parts["pre_tokenizer"]["add_prefix_space"] = True
    other = tokenizer.Tokenizer.from_json(json.dumps(parts))
    assert other._memory is None and other.decode(other.encode(["fox"])[0]) == " fox"
    parts = json.loads(trained["wordpiece"].to_json())
    token = parts["added_tokens"][0] | {"content": "lazy dog", "special": False, "id": 150}
    parts["added_tokens"].append(token)
    made = tokenizer.Tokenizer.from_json(json.dumps(parts))
    assert made._memory is None and 150 in made.encode(["the lazy dog"])[0]


@pytest.mark.parametrize("family", ["wordpiece", "bpe"])
def test_json_round_trip(trained, family):
    made = trained[family]
    again = tokenizer.Tokenizer.from_json(made.to_json())
    assert again.digest == made.digest and again.vocabulary == made.vocabulary
    for here, there in zip(made.encode(TEXTS), again.encode(TEXTS), strict=True):
        np.testing.assert_array_equal(here, there)


def test_word_starts(trained):
    text = "the quickest foxes unquestionably"
    for made in trained.values():
        starts = made.word_starts()
        assert starts.shape == (made.vocabulary.size,) and starts[list(range(5))].all()
        ids = made.encode([" " + text])[0]
        assert len(ids) > 4 and starts[ids].sum() == 4
        words = np.split(ids, np.flatnonzero(starts[ids])[1:])
        # A byte-level word begins with its blank; of WordPiece's, glue the pieces.
        glued = [made.decode(word).replace(" ##", "").strip() for word in words]
        assert glued == text.split()


VOCAB = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
         "the", "fox", "##es", "un", "##want", "##ed", "run", "##ning", ",", "!"]  # fmt: skip


def test_a_published_vocab_txt(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n")
    made = tokenizer_files.load(str(path))
    vocabulary = made.vocabulary
    assert (vocabulary.size, vocabulary.pad, vocabulary.unk) == (16, 0, 2)
    assert (vocabulary.cls, vocabulary.sep, vocabulary.mask) == (3, 4, 5)
    # The example of Google's tokenization_test.py.
    assert made.encode(["UNwant\u00e9d,running"])[0].tolist() == [9, 10, 11, 14, 12, 13]
    assert tokens(made, "the fox ran!") == ["the", "fox", "[UNK]", "!"]
    assert tokenizer_files.load(str(tmp_path)).digest == made.digest  # the folder
    path.write_text("\n".join([*VOCAB, "Fox"]) + "\n")  # a capital: the cased model
    assert tokens(tokenizer_files.load(str(path)), "Fox fox") == ["Fox", "fox"]
    assert tokens(tokenizer_files.load(str(path), lowercase=True), "Fox fox") == ["fox", "fox"]


def beside(folder, name, **values):
    (folder / name).write_text(json.dumps(values))


def test_what_stands_beside_a_vocab_txt(tmp_path):
    letters = ["F", "f", "o", "x", "é", "e", "中", "##ox", "##é", "##e", "##中", "a", "##b", "caf"]
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCAB, *letters]) + "\n")
    size = len(VOCAB) + len(letters)

    def read(text, **settings):
        beside(tmp_path, "tokenizer_config.json", **settings)
        return tokens(tokenizer_files.load(str(tmp_path)), text)

    # There are capitals, but what is said counts.
    assert read("Fox") == ["F", "##ox"]
    assert read("Fox", do_lower_case=True) == ["fox"]
    assert read("café", do_lower_case=True) == ["caf", "##e"]
    assert read("café", do_lower_case=True, strip_accents=False) == ["caf", "##é"]
    assert read("café", do_lower_case=False) == ["caf", "##é"]
    assert read("café", do_lower_case=False, strip_accents=True) == ["caf", "##e"]
    assert read("f中", do_lower_case=False) == ["f", "中"]
    assert read("f中", do_lower_case=False, tokenize_chinese_chars=False) == ["f", "##中"]
    path = str(tmp_path / "vocab.txt")
    assert tokens(tokenizer_files.load(path, lowercase=False), "f中") == ["f", "##中"]  # also so
    with pytest.raises(UserError, match="do_lower_case is 'yes', no bool"):
        read("", do_lower_case="yes")
    with pytest.raises(UserError, match="do_basic_tokenize false"):
        read("", do_basic_tokenize=False)

    beside(tmp_path, "added_tokens.json", **{"[E1]": size, "New York": size + 1})
    decoder = {0: {"content": "[PAD]", "special": True}, size + 2: {"content": "[E2]"}}
    beside(tmp_path, "tokenizer_config.json", do_lower_case=True, added_tokens_decoder=decoder)
    made = tokenizer_files.load(path)
    ids = made.encode(["fox [E1] new york [E2]"])[0].tolist()
    assert ids == [VOCAB.index("fox"), size, size + 1, size + 2]
    again = tokenizer.Tokenizer.from_json(made.to_json())  # as a run keeps it
    assert again.encode(["fox [E1] new york [E2]"])[0].tolist() == ids
    vocabulary = made.vocabulary
    assert vocabulary.size == size + 3 and vocabulary.special == (0, 2, 3, 4, 5)
    beside(tmp_path, "added_tokens.json", **{"[E1]": size + 5})
    with pytest.raises(UserError, match=rf"'\[E1\]' is added as token {size + 5}, and it would be"):
        read("fox")
    (tmp_path / "added_tokens.json").write_text("{")
    with pytest.raises(UserError, match="added_tokens.json"):
        read("fox")


def test_a_vocab_txt_without_a_mask_gets_one_behind_its_tokens(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(t for t in VOCAB if t != "[MASK]") + "\n")
    made = tokenizer_files.load(str(tmp_path))
    assert made.vocabulary.mask == 15 and made.vocabulary.size == 16
    assert tokens(made, "the fox") == ["the", "fox"]


def test_what_stands_beside_bpe_files(tmp_path):
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "Ġ": 5, "Ġa": 6, "<mask>": 7}
    beside(tmp_path, "vocab.json", **vocab)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ a\n", encoding="utf-8")
    assert tokens(tokenizer_files.load(str(tmp_path)), "a a") == ["a", "Ġa"]
    beside(tmp_path, "tokenizer_config.json", add_prefix_space=True)
    beside(tmp_path, "added_tokens.json", **{"<x>": 8})
    made = tokenizer_files.load(str(tmp_path))
    assert tokens(made, "a a<x>") == ["Ġa", "Ġa", "<x>"]
    assert made.vocabulary.size == 9 and 8 not in made.vocabulary.special


def test_published_bpe_files(tmp_path):
    letters = ["l", "o", "w", "e", "r", "Ġ", "lo", "low", "er", "Ġlow"]
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocab |= {token: i for i, token in enumerate(letters, 4)} | {"<mask>": 14}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(UserError, match="lacks the file beside it: merges.txt"):
        tokenizer_files.load(str(tmp_path))
    merges = "#version: 0.2\nl o\nlo w\ne r\nĠ low\n"
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    made = tokenizer_files.load(str(tmp_path / "vocab.json"))
    assert tokens(made, "lower low") == ["low", "er", "Ġlow"]
    vocabulary = made.vocabulary
    assert (vocabulary.cls, vocabulary.pad, vocabulary.sep, vocabulary.unk) == (0, 1, 2, 3)
    assert vocabulary.mask == 14 and vocabulary.size == 15
    assert vocabulary.special == (0, 1, 2, 3, 14)


def test_gpt2_files_get_the_special_tokens_they_lack(tmp_path):
    vocab = {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    vocabulary = tokenizer_files.load(str(tmp_path)).vocabulary
    assert (vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep) == (3, 3, 3, 3)
    assert vocabulary.mask == 4 and vocabulary.size == 5 and vocabulary.special == (3, 4)


def test_any_tokenizer_json(trained, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(trained["bpe"].to_json())
    assert tokenizer_files.load(str(path)).digest == trained["bpe"].digest
    assert tokenizer_files.load(str(tmp_path)).digest == trained["bpe"].digest


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{}", "cannot be read"),
        ("tokenizer.json", "no json", "cannot be read"),
        ("vocab.txt", "the\nfox\n[PAD]\n[CLS]\n[SEP]\n[MASK]\n", "lacks [UNK]: no vocab.txt of"),
        ("vocab.txt", b"\xff\xfe", "cannot be read"),
        ("other.bin", b"\x00", "cannot be read"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        tokenizer_files.load(str(path))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_bad_values(tmp_path):
    with pytest.raises(UserError, match="unknown kind of tokenizer 'wordpeace'.*'wordpiece'"):
        tokenizer_training.train(lambda: iter(TEXTS), "wordpeace")
    with pytest.raises(
        UserError, match="neither wordpiece nor bpe nor words nor a file.*'wordpiece'"
    ):
        tokenizer_files.load("wordpeice")
    with pytest.raises(UserError, match="vocab_size is 100; a bpe tokenizer needs at least 261"):
        tokenizer_training.train(lambda: iter(TEXTS), "bpe", 100)
    with pytest.raises(UserError, match="holds no tokenizer"):
        tokenizer_files.load(str(tmp_path))


WORDS = ["The cat's new_york, re-read: the CAT (cat) don’t!", "the cat's 42 ünïts; the\tcat’s"]


def test_words_are_tokens_in_the_order_of_their_frequency():
    made = tokenizer_training.train(lambda: WORDS, "words", min_count=2)
    assert [made.backend.id_to_token(i) for i in range(5, made.vocabulary.size)] == [
        "the", "cat", "cat's",
    ]  # fmt: skip
    assert made.vocabulary.special == (0, 1, 2, 3, 4)
    ids, lengths = made.encode(WORDS)
    known = [made.backend.id_to_token(i) for i in ids]
    unk = "[UNK]"
    assert known[:8] == ["the", "cat's", unk, unk, "the", "cat", "cat", unk]
    assert known[8:] == ["the", "cat's", unk, unk, "the", unk]
    assert lengths.tolist() == [8, 6]
    assert made.token_texts()[5:] == [" the", " cat", " cat's"]
    assert made.word_starts().all()


def test_words_do_not_depend_on_what_is_remembered_and_keep_capitals_if_asked():
    made = tokenizer_training.train(lambda: WORDS, "words", min_count=1, lowercase=False)
    assert {"The", "the", "CAT", "new_york", "re-read", "42", "ünïts", "don’t"} <= set(
        made.backend.get_vocab()
    )
    ids, _ = made.encode(WORDS)
    alone = [i for text in WORDS for i in made.backend.encode(text, add_special_tokens=False).ids]
    assert ids.tolist() == alone


def test_no_word_that_is_frequent_enough_is_one_line():
    with pytest.raises(UserError, match=r"no word of the text occurs 9 times; .*min_count"):
        tokenizer_training.train(lambda: WORDS, "words", min_count=9)
