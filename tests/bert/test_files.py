"""Every published format, and what is said about a row that does not fit."""

import pytest
from mmengine.logging import MMLogger

from rebnn_mm.bert import TASKS, Example, find_task, read_examples


def write(tmp_path, folder, split, text):
    (tmp_path / folder).mkdir(exist_ok=True)
    path = tmp_path / folder / f"{split}.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


MNLI = "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
MNLI += "sentence2_parse\tsentence1\tsentence2\tlabel1\t"
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
PARSES = "( a )\t( b )\t(ROOT a)\t(ROOT b)"
FORMATS = [
    ("cola", "train", "gj04\t0\t*\tThe cat.\n", ("The cat.",), 0),
    ("cola", "dev", "gj04\t1\t\tThe cat.", ("The cat.",), 1),
    ("cola", "test", "index\tsentence\n0\tThe cat.\n", ("The cat.",), None),
    ("sst2", "train", "sentence\tlabel\nhide new \t0\n", ("hide new",), 0),
    ("sst2", "test", "index\tsentence\n0\tuneasy\n", ("uneasy",), None),
    ("mrpc", "train", '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t5\t6\tHe said "x\t" y\r\n', None, 1),
    ("mrpc", "test", "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t5\t6\ta\tb\n", ("a", "b"), None),
    ("stsb", "dev", f"{STSB}\tscore\n0\tnews\tMSR\t2012\t1\tnone\tnone\ta\tb\t2.500\n", ("a", "b"), 2.5),
    ("stsb", "test", f"{STSB}\n0\tnews\tMSR\t2012\t1\tnone\tnone\ta\tb\n", ("a", "b"), None),
    ("qqp", "train", f"{QQP}\n1\t2\t3\ta?\tb?\t1\n", ("a?", "b?"), 1),
    ("qqp", "test", "id\tquestion1\tquestion2\n0\ta?\tb?\n", ("a?", "b?"), None),
    ("mnli", "train", f"{MNLI}gold_label\n0\t1\t1c\tgov\t{PARSES}\ta\tb\tneutral\tneutral\n", ("a", "b"), 2),
    (
        "mnli",
        "dev_mismatched",
        f"{MNLI}label2\tlabel3\tlabel4\tlabel5\tgold_label\n"
        f"0\t1\t1c\tgov\t{PARSES}\ta\tb\tneutral\tneutral\tneutral\tneutral\tentailment\tentailment\n",
        ("a", "b"),
        1,
    ),
    ("qnli", "train", "index\tquestion\tsentence\tlabel\n0\ta?\tb\tnot_entailment\n", ("a?", "b"), 1),
    ("rte", "dev", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n", ("a", "b"), 0),
    ("wnli", "train", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t1\n", ("a", "b"), 1),
]


@pytest.mark.parametrize(("name", "split", "text", "texts", "label"), FORMATS)
def test_formats(name, split, text, texts, label, tmp_path):
    task = find_task(name)
    write(tmp_path, task.folder, split, text)
    (example,) = read_examples(tmp_path, task, split)
    assert example == Example(texts or ('He said "x', '" y'), label)


def test_formats_cover_all_nine_tasks():
    assert {name for name, *_ in FORMATS} == set(TASKS) and len(TASKS) == 9


def test_a_line_separator_within_a_sentence_is_text(tmp_path):
    write(tmp_path, "SST-2", "train", "sentence\tlabel\na\u0085b\u2028c\t1\n\n")
    assert read_examples(tmp_path, TASKS["sst2"], "train") == [Example(("a\u0085b\u2028c",), 1)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("0\ta\tb", "3 columns, 4 expected"),
        ("0\ta\tb\tentailment\tmore", "5 columns, 4 expected"),
        ("0\ta\t \tentailment", "an empty sentence"),
        ("0\ta\tb\tperhaps", "label 'perhaps', one of entailment, not_entailment expected"),
    ],
)
def test_a_malformed_row_is_named_by_file_line_and_reason(row, reason, tmp_path):
    good = "0\ta\tb\tentailment\n"
    path = write(tmp_path, "RTE", "train", f"index\tsentence1\tsentence2\tlabel\n{good}{row}\n{good}")
    with pytest.raises(ValueError) as caught:
        read_examples(tmp_path, TASKS["rte"], "train")
    assert f"{path}, line 3: {reason}; mend the row" in str(caught.value)
    assert len(read_examples(tmp_path, TASKS["rte"], "train", malformed="skip")) == 2


@pytest.mark.parametrize("score", ["5.1", "-1", "x", "nan"])
def test_scores_outside_the_scale_are_refused(score, tmp_path):
    write(tmp_path, "STS-B", "dev", f"{STSB}\tscore\n0\tnews\tMSR\t2012\t1\tnone\tnone\ta\tb\t{score}\n")
    with pytest.raises(ValueError, match=f"line 2: score '{score}', a number from 0 to 5"):
        read_examples(tmp_path, TASKS["stsb"], "dev")


def test_a_test_rows_place_is_its_number_so_none_is_left_out(tmp_path):
    write(tmp_path, "RTE", "test", "index\tsentence1\tsentence2\n0\ta\n1\ta\tb\n")
    with pytest.raises(ValueError, match="line 2: 2 columns, 3 expected"):
        read_examples(tmp_path, TASKS["rte"], "test", malformed="skip")


def test_files_that_are_not_there_or_not_the_tasks(tmp_path):
    with pytest.raises(FileNotFoundError, match="RTE/train.tsv.*--cfg-options data_root=FOLDER"):
        read_examples(tmp_path, TASKS["rte"], "train")
    with pytest.raises(ValueError, match="split='val'.*'train', 'dev', 'test'"):
        read_examples(tmp_path, TASKS["rte"], "val")
    with pytest.raises(ValueError, match="task 'squad': GLUE has cola, sst2"):
        find_task("squad")
    write(tmp_path, "RTE", "train", "sentence\tlabel\na\t0\n")
    with pytest.raises(ValueError, match="lacks the column 'sentence1', 'sentence2', it has sentence, label"):
        read_examples(tmp_path, TASKS["rte"], "train")
    write(tmp_path, "RTE", "train", b"index\tsentence1\tsentence2\tlabel\n0\t\xff\tb\tentailment\n")
    with pytest.raises(ValueError, match="not UTF-8 at byte"):
        read_examples(tmp_path, TASKS["rte"], "train")
    write(tmp_path, "RTE", "train", "index\tsentence1\tsentence2\tlabel\n")
    with pytest.raises(ValueError, match="has no row of data"):
        read_examples(tmp_path, TASKS["rte"], "train")
    write(tmp_path, "RTE", "train", "")
    with pytest.raises(ValueError, match="the first line lacks"):
        read_examples(tmp_path, TASKS["rte"], "train")


QUESTION = "{}\t1\t2\tWhy?\tHow?\t1\n"


def test_qqps_torn_rows_are_left_out_with_one_warning(tmp_path, caplog):
    """As published: a line break within a question makes two short rows of one, and a question may be empty."""
    text = f"{QQP}\n{QUESTION.format(1)}2\t3\t4\tWhat\nis it?\tHow?\t0\n{QUESTION.format(3)}4\t5\t6\t\tHow?\t0\n"
    path = write(tmp_path, "QQP", "dev", text)
    logger = MMLogger.get_current_instance()
    with caplog.at_level("WARNING"):
        logger.addHandler(caplog.handler)
        try:
            examples = read_examples(tmp_path, TASKS["qqp"], "dev")
        finally:
            logger.removeHandler(caplog.handler)
    messages = [record.getMessage() for record in caplog.records]
    assert examples == [Example(("Why?", "How?"), 1), Example(("Why?", "How?"), 1), Example(("", "How?"), 0)]
    (message,) = set(messages)
    assert message.startswith(f"{path}: 2 of 5 rows have fewer than 6 columns, in lines 3, 4; they are left out")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2\t3\t4\ta?\tb?\t1\tmore", "7 columns, 6 expected"),
        ("2\t3\t4\ta?\tb?\t2", "label '2', one of 0, 1 expected"),
        ("2\t3\t4\t\t \t1", "an empty sentence"),
    ],
)
def test_other_malformed_rows_of_qqp_are_refused(row, reason, tmp_path):
    write(tmp_path, "QQP", "train", f"{QQP}\n{QUESTION.format(1)}{row}\n")
    with pytest.raises(ValueError, match=f"line 3: {reason}"):
        read_examples(tmp_path, TASKS["qqp"], "train")


def test_torn_rows_of_other_tasks_and_of_qqps_test_are_refused(tmp_path):
    write(tmp_path, "RTE", "train", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\n")
    with pytest.raises(ValueError, match="line 3: 2 columns, 4 expected"):
        read_examples(tmp_path, TASKS["rte"], "train")
    write(tmp_path, "QQP", "test", "id\tquestion1\tquestion2\n0\ta?\n")
    with pytest.raises(ValueError, match="line 2: 2 columns, 3 expected"):
        read_examples(tmp_path, TASKS["qqp"], "test")


def test_a_qqp_of_torn_rows_is_damaged(tmp_path):
    write(tmp_path, "QQP", "train", f"{QQP}\n{QUESTION.format(1)}" + "1\t2\n" * 101)
    with pytest.raises(ValueError, match="101 of 102 rows have fewer than 6 columns, in lines 3, 4, .* and 81 more"):
        read_examples(tmp_path, TASKS["qqp"], "train")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("tail", ["", "{0}", "{0}{0}", "  {0}"])
def test_line_ends_marks_and_blank_lines(tmp_path, end, mark, tail):
    """Unmatched quotes and a quoted genre are text; CoLA's first line is data, behind a byte order mark too."""
    row = f'0\t1\t1c\t"gov\t{PARSES}\tHe said "a\t"b\tneutral\tneutral'
    write(tmp_path, "MNLI", "train", mark + end.join([f"{MNLI}gold_label", row, row]) + end + tail.format(end))
    assert read_examples(tmp_path, TASKS["mnli"], "train") == [Example(('He said "a', '"b'), 2)] * 2
    write(
        tmp_path,
        "CoLA",
        "dev",
        mark + end.join(["gj04\t1\t\tThe cat.", 'gj04\t0\t*\tA "cat.']) + end + tail.format(end),
    )
    assert read_examples(tmp_path, TASKS["cola"], "dev") == [Example(("The cat.",), 1), Example(('A "cat.',), 0)]
