"""Labelled examples as rows of tokens: truncation, words, windows of texts, their formats."""

import gzip
import itertools
import json

import numpy as np
import pytest
import tokenizers

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data.labelled import encoded, windows
from ssl_jax.data.text import tokenizer_files, tokenizer_training
from ssl_jax.tasks import answers

FOX = "The quick brown fox, born 1887 in Łódź, jumps over the lazy dog. "
CONTEXT = (
    f"{FOX * 12}Marie Curie won a prize in 1903, and\u00a0again in 1911 with the radium. {FOX}"
)
CONLL = """-DOCSTART- -X- O

EU B-ORG
rejects O
unbelievably O
German B-MISC
calls O

-DOCSTART- -X- O

Peter\u00a0Pan B-PER
\u200b I-PER
. O
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Folders of a tokenizer of each family."""
    root = tmp_path_factory.mktemp("tokenizers")
    for family, size in (("wordpiece", 180), ("bpe", 280)):
        made = tokenizer_training.train(lambda: [CONTEXT, "EU rejects German calls"], family, size)
        (root / family).mkdir()
        (root / family / "tokenizer.json").write_text(made.to_json())
    return root


def write_squad(path, *questions, context=CONTEXT, title="Curie"):
    article = {"title": title, "paragraphs": [{"context": context, "qas": list(questions)}]}
    path.write_text(json.dumps({"version": "v2.0", "data": [article]}))
    return path


def question(name, text, *answers, context=CONTEXT, **values):
    found = [{"text": one, "answer_start": context.index(one)} for one in answers]
    return {"id": name, "question": text, "answers": found} | values


def everything(source):
    return source.batch(np.arange(len(source)))


@pytest.mark.parametrize("family", ["wordpiece", "bpe"])
def test_rows_are_those_of_the_tokenizers_library(published, family):
    """Framing, truncation of single texts, and windows. Pairs of texts that are both too long are
    cut as BERT cuts them, which gives an odd token to the other text."""
    made = tokenizer_files.load(str(published / family))
    there = tokenizers.Tokenizer.from_str(made.to_json())
    cls, sep = (
        (there.id_to_token(index), index) for index in (made.vocabulary.cls, made.vocabulary.sep)
    )
    pair = "$A:0 {sep} {more} $B:1 {sep}:1" if family == "bpe" else "$A:0 {sep} {more}$B:1 {sep}:1"
    more = sep[0] if family == "bpe" else ""
    there.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{cls[0]} $A:0 {sep[0]}",
        pair=f"{cls[0]} " + pair.format(sep=sep[0], more=more),
        special_tokens=[cls, sep],
    )
    texts = ["Marie Curie won", FOX * 3, "", FOX]
    second = ["a prize", "in 1903", "and again", ""]
    there.enable_padding(pad_id=made.vocabulary.pad, length=40)
    there.enable_truncation(40)
    for others in (None, second):
        rows = encoded.framed_texts(made, 40, texts, others)
        expected = there.encode_batch(
            texts if others is None else list(zip(texts, others, strict=True))
        )
        np.testing.assert_array_equal(rows["tokens"], [row.ids for row in expected])
        np.testing.assert_array_equal(rows["segment"], [row.attention_mask for row in expected])
        np.testing.assert_array_equal(rows["type"], [row.type_ids for row in expected])
    there.no_padding()
    there.no_truncation()
    tokens = there.encode(CONTEXT, add_special_tokens=False).ids
    room, stride = 30, 12
    there.enable_truncation(room + 2, stride=room - stride)  # cls and sep stand in every window
    whole = there.encode(CONTEXT)
    rows = [list(tokens[i : i + n]) for i, n in windows.sliding(len(tokens), room, stride)]
    assert rows == [window.ids[1:-1] for window in (whole, *whole.overflowing)]


def test_truncation_is_the_loop_of_bert():
    a, b = map(np.array, zip(*itertools.product(range(12), range(12)), strict=True))
    for room in (1, 6, 7, 30):
        wanted = []
        for first, second in zip(a.tolist(), b.tolist(), strict=True):
            while first + second > room:
                if first > second:
                    first -= 1
                else:
                    second -= 1
            wanted.append((first, second))
        np.testing.assert_array_equal(np.stack(encoded.truncated(a, b, room), axis=1), wanted)


@pytest.mark.parametrize("family", ["wordpiece", "bpe"])
def test_words(tmp_path, published, family):
    path = tmp_path / "a.txt"
    path.write_text(CONLL, encoding="utf-8")
    source = data.load(f"conll:{path}", tokenizer=str(published / family), sequence_length=9)
    batch = everything(source)
    assert source.class_names == ("O", "B-MISC", "B-ORG", "B-PER", "I-PER")
    assert source.metrics[0] == "entity_f1" and source.spec.task == "tags"
    assert source.extent == 2  # documents
    item = source.encoded.item
    assert len(item) > 2 and set(item) == {0, 1}  # the first sentence takes several rows
    for sentence, tags in ((0, [2, 0, 0, 1, 0]), (1, [3, 4, 0])):
        found = batch["tags"][item == sentence]
        assert found[found >= 0].tolist() == tags
    assert (batch["tags"][batch["segment"] == 0] == -1).all() and (batch["tags"][:, 0] == -1).all()
    # Of each word, its first token; and all of it, in rows that no word crosses.
    made = source.tokenizer
    blank = " " if family == "bpe" else ""
    words = ["EU", "rejects", "unbelievably", "German", "calls", "Peter\u00a0Pan", "\u200b", "."]
    wanted = [list(made.encode([blank + word])[0][:7]) for word in words]
    wanted = [ids or [made.vocabulary.unk] for ids in wanted]
    found = []
    for tokens, tags in zip(batch["tokens"], batch["tags"], strict=True):
        real = tokens[1 : np.flatnonzero(tokens == made.vocabulary.sep)[-1]]
        assert tags[1] >= 0
        starts = np.flatnonzero(tags >= 0) - 1
        found += [part.tolist() for part in np.split(real, starts[1:])]
    assert found == wanted


def test_sentences_without_documents(tmp_path, published):
    path = tmp_path / "a.tsv"
    path.write_text("# x\n1\tEU\tPROPN\n2\ta b\tNOUN\n\n\n1\tcalls\tVERB")
    options = {"tokenizer": str(published / "wordpiece"), "word_column": 1, "comment": "# "}
    source = data.load(f"conll:{path}", **options)
    assert source.extent == 2 and source.metrics == ("accuracy", "macro_f1")
    assert source.class_names == ("NOUN", "PROPN", "VERB") and source.texts()[0] == "eu a b"
    assert list(source.names) == [f"{path}, line 2", f"{path}, line 6"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "has no labels"),
        ("a O\nb B-X\nc\n", {}, "line 3 has 1 column; word_column is 0"),
        ("a O\nb B-X\n", {"tag_column": 2}, "line 1 has 2 columns; tag_column is 2"),
        ("a O\nb X\n", {"class_names": ["O"]}, "word 2: 'X' is no class; classes: O."),
        ("a O\n", {}, "has only the class 'O'"),
        ("a O\n", {"task": "classify"}, "is 'classify'; use tags"),
        # Comments that would be read as words.
        ("# sent = 1\na O\nb B-X\n", {}, "line 1 begins with # and has other columns"),
        ("a O\nb B-X\n\n# text = a c\na O\n", {}, "line 4 begins with #"),
        ("a\tO\nb\tB-X\n\n# c\na\tO\n", {"comment": "%"}, "set data.options.comment='#'"),
    ],
)
def test_bad_columns(tmp_path, published, text, options, message):
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        data.load(f"conll:{path}", tokenizer=str(published / "wordpiece"), **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_which_lines_are_words(tmp_path, published):
    path = tmp_path / "a.txt"
    path.write_text("#a O\na B-X\n\n-DOCSTART- O\n\nb O\n")
    options = {"tokenizer": str(published / "wordpiece")}
    source = data.load(f"conll:{path}", **options)
    assert source.encoded.tags.tolist() == [0, -1, 1, 0] and source.metrics[0] == "entity_f1"
    # A document begins where the word says so, in whichever column that is.
    path.write_text("1\ta\tO\n\n-\t-DOCSTART-\tO\n\n1\tb\tB-X\n\n1\tc\tO\n")
    source = data.load(f"conll:{path}", **options, word_column=1)
    assert source.texts() == ["a", "b", "c"] and source.extent == 2


def test_windows():
    assert list(windows.sliding(10, 10, 4)) == [(0, 10)]
    assert list(windows.sliding(11, 10, 4)) == [(0, 10), (4, 7)]
    assert list(windows.sliding(0, 10, 4)) == [(0, 0)]
    assert list(windows.whole_words([3, 3, 4, 9, 1, 5], 10)) == [(0, 10), (10, 10), (20, 5)]
    # The text's end is in the last window, and each token in a window in which it has room around.
    for length in range(1, 60):
        runs = np.array(list(windows.sliding(length, 12, 5)))
        assert runs[-1].sum() == length and (runs[:-1, 1] == 12).all()
        best = answers.best_context(*runs.T)
        seen = np.zeros(length, int)
        for (start, size), shown in zip(runs, best, strict=True):
            assert len(shown) == size
            seen[start : start + size] += shown
        assert (seen == 1).all()


def test_best_context_is_that_of_bert():
    runs = np.array(list(windows.sliding(40, 16, 7)))
    best = answers.best_context(*runs.T)
    for place in range(40):
        scores = []
        for start, size in runs.tolist():
            if start <= place < start + size:
                sides = min(place - start, start + size - 1 - place)
                scores.append(sides + 0.01 * size)
            else:
                scores.append(float("-inf"))
        window = scores.index(max(scores))
        assert best[window][place - runs[window, 0]]


@pytest.mark.parametrize("family", ["wordpiece", "bpe"])
def test_questions(tmp_path, published, family):
    path = write_squad(
        tmp_path / "a.json",
        question("q1", "When did Curie first win?", "1903"),
        question("q2", "What was it " + "about " * 40 + "?", "radium", "the radium"),
        question("q3", "What is the moon?", is_impossible=True, plausible_answers=[{"text": "x"}]),
        {"id": "q4", "question": "Nobody knows?"},
        question("q5", "And when again?", "again in 1911"),
    )
    options = {"sequence_length": 64, "stride": 20, "query_length": 12}
    source = data.load(f"squad:{path}", tokenizer=str(published / family), **options)
    batch = everything(source)
    assert {name: batch[name].dtype for name in ("span", "context")} == {
        "span": np.int32, "context": np.bool_}  # fmt: skip
    assert set(batch) == set(source.spec.arrays) and (batch["label"] == -1).all()
    made, item = source.tokenizer, source.encoded.item
    ids = made.encode([CONTEXT])[0]
    for number, answer in ((0, "1903"), (1, "radium"), (2, None), (3, None), (4, "again in 1911")):
        rows = np.flatnonzero(item == number)
        covered = 0
        for window, row in enumerate(rows):
            tokens, shown = batch["tokens"][row], batch["context"][row]
            start = window * 20
            text = tokens[shown]
            np.testing.assert_array_equal(text, ids[start : start + len(text)])
            assert (batch["type"][row][shown] == 1).all()
            covered = start + len(text)
            query = source.encoded.length[row, 0]
            seps = np.flatnonzero(tokens == made.vocabulary.sep).tolist()
            between = [1 + query] if family == "wordpiece" else [1 + query, 2 + query]
            assert seps == [*between, batch["segment"][row].sum() - 1]
            assert query <= 12 and shown.argmax() == between[-1] + 1
            first, last = batch["span"][row]
            there = made.decode(tokens[first : last + 1]).strip()
            if first:
                assert (
                    answer in there
                    and len(there) <= len(answer) + 6
                    and shown[first : last + 1].all()
                )
            elif answer is not None:
                text = made.decode(tokens[shown]).replace("\u00a0", " ")
                assert answer not in text
        assert covered == len(ids)
        assert (batch["span"][rows, 0] > 0).any() == (answer is not None)
    assert source.encoded.questions[2].answers == () and source.encoded.questions[3].answers is None
    unknown = int((source.encoded.item == 3).sum())
    (note,) = source.notes()
    assert note.startswith(f"{unknown} of {len(source)} rows of ")
    # Where tokens stand in the text, without the blanks in front of them.
    run = source.encoded.start[0, 1]
    begin, end = source.encoded.offsets[run : run + len(ids)].T
    words = [CONTEXT[a:b] for a, b in zip(begin, end, strict=True)]
    assert not any(word[:1].isspace() for word in words)
    assert sum(map(len, words)) >= sum(not letter.isspace() for letter in CONTEXT)


def test_lines_of_questions(tmp_path, published):
    records = [
        {"question": "When?", "context": "It was 1903.", "answers": {"text": ["1903"],
         "answer_start": [7]}},
        {"question": "When?", "context": "It was 1911.", "answers": [{"text": "1911"}]},
        {"id": 7, "question": "Who?", "context": "It was 1911.", "answers": []},
    ]  # fmt: skip
    with gzip.open(tmp_path / "train.jsonl.gz", "wt") as file:
        file.write("".join(f"{json.dumps(record)}\n" for record in records))
    options = {"tokenizer": str(published / "wordpiece"), "sequence_length": 32}
    options |= {"stride": 8, "query_length": 8}
    source = data.load(f"squad:{tmp_path}/{{split}}.jsonl.gz", **options)
    assert [question.name for question in source.encoded.questions][2] == "7"
    assert source.extent == 2 and (everything(source)["span"][:, 0] > 0).tolist() == [
        True, True, False]  # fmt: skip
    # Two texts joined keep their questions.
    both = data.load(f"squad:{tmp_path}/{{split}}.jsonl.gz", "train[:50%]+train[50%:]", **options)
    for row in range(3):
        first, last = everything(both)["span"][row]
        answers = both.encoded.questions[both.encoded.item[row]].answers
        text = both.tokenizer.decode(everything(both)["tokens"][row, first : last + 1])
        assert text == (answers[0][0] if answers else "[CLS]")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "is not in the format of SQuAD"),
        ("{", "is not JSON"),
        ('{"dat": []}', "has no 'data'; it has dat. Did you mean 'dat'?"),
        ('{"data": [{"paragraphs": [{"context": 3}]}]}', "'context' is 3, not a text"),
        ('{"data": []}', "has no examples"),
        ('{"data": [7]}', "7 stands where an object with 'paragraphs' should"),
    ],
)
def test_bad_files_of_questions(tmp_path, published, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        data.load(f"squad:{path}", tokenizer=str(published / "wordpiece"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answers", "options", "message"),
    [
        ([{"text": "1904", "answer_start": 3}], {}, "the answer '1904' is nowhere in its text"),
        ([{"text": "radium", "answer_start": 3}], {},
         f"is at character {CONTEXT.index('radium')} of its text, not 3, where ' quick bro' st"),
        ([{"text": "moon"}], {}, "question q: the answer 'moon' is nowhere in its text"),
        ([{"text": "1903", "answer_start": "9"}], {}, "answer_start is '9', not a character's"),
        ("1903", {}, "answers is '1903', neither a list nor an object"),
        ({"text": ["a"], "answer_start": []}, {}, "has 1 answers and not as many answer_start"),
        ([], {"stride": 400}, "stride 400 would skip tokens: a row of 384 has room for 316"),
        ([], {"query_length": 0}, "query_length is 0"),
        ([], {"sequence_length": 8}, "sequence_length is 8; it must be at least 16"),
        ([], {"class_names": ["a"]}, "class_names is for classes, and task=span has none"),
        ([], {"task": "tags"}, "is 'tags'; use span"),
    ],
)  # fmt: skip
def test_bad_answers(tmp_path, published, answers, options, message):
    path = write_squad(tmp_path / "a.json", question("q", "When?") | {"answers": answers})
    with pytest.raises(UserError) as caught:
        data.load(f"squad:{path}", tokenizer=str(published / "wordpiece"), **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_answers_a_little_astray(tmp_path, published):
    wrong = {"text": "1903", "answer_start": CONTEXT.index("1903") - 2}
    path = write_squad(tmp_path / "a.json", question("q", "When?") | {"answers": [wrong]})
    source = data.load(f"squad:{path}", tokenizer=str(published / "wordpiece"))
    batch = everything(source)
    first, last = batch["span"][-1]
    assert source.tokenizer.decode(batch["tokens"][-1, first : last + 1]) == "1903"


@pytest.mark.parametrize(
    ("said", "answered"),
    [(False, True), ("False", True), (0, True), (None, True), (True, False), ("true", False)],
)
def test_a_question_is_impossible_where_the_file_says_so(tmp_path, published, said, answered):
    path = write_squad(tmp_path / "a.json", question("q", "When?", "1903", is_impossible=said))
    source = data.load(f"squad:{path}", tokenizer=str(published / "wordpiece"))
    assert (everything(source)["span"][-1] > 0).all() == answered


def test_an_unclear_is_impossible_is_named(tmp_path, published):
    path = write_squad(tmp_path / "a.json", question("q", "When?", "1903", is_impossible="maybe"))
    with pytest.raises(UserError, match="question q: is_impossible is 'maybe'; use true or false"):
        data.load(f"squad:{path}", tokenizer=str(published / "wordpiece"))


def test_articles_are_on_one_side(tmp_path, published):
    articles = [
        {"title": f"T{i}", "paragraphs": [{"context": f"text {i} {k}", "qas": [
            question(f"{i} {k}", "Which?", str(i), context=f"text {i} {k}")]} for k in range(3)]}
        for i in range(10)
    ]  # fmt: skip
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": articles}))
    sides = [
        data.load(f"squad:{path}", split, tokenizer=str(published / "wordpiece"))
        for split in ("train[:70%]", "train[70%:]")
    ]
    assert [len(side) for side in sides] == [21, 9]
    titles = [{side.encoded.questions[item].group for item in side.encoded.item} for side in sides]
    assert not titles[0] & titles[1] and len(titles[0] | titles[1]) == 10
