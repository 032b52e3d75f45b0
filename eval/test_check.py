"""Tests of the check of the evaluation sets: the committed sets pass, and each rule, broken once, is found."""

import contextlib
import copy
import io
import json
import tempfile
import unittest
from pathlib import Path

import baseline
import check
import text

SETS = {name: check.load(name) for name in check.ABILITIES}


def copied(name):
    """A set that a test may break."""
    return check.Set(name, [dict(row) for row in SETS[name].documents], copy.deepcopy(SETS[name].questions))


def first(loaded, ability, having=lambda question: True):
    """The first question of an ability."""
    return next(question for question in loaded.questions if question["ability"] == ability and having(question))


def quietly(given):
    """The exit status of the program."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return check.main(given)


class CommittedSetsTest(unittest.TestCase):
    def test_they_break_no_rule(self):
        for name, loaded in SETS.items():
            self.assertEqual(check.problems(loaded), [], name)

    def test_the_check_of_a_folder_fails_where_a_set_is_broken(self):
        with tempfile.TemporaryDirectory() as made:
            for name, loaded in SETS.items():
                folder = Path(made) / name
                folder.mkdir()
                documents = "sessions.jsonl" if name == "conversations" else "documents.jsonl"
                for path, rows in ((documents, loaded.documents), ("questions.jsonl", loaded.questions[1:])):
                    (folder / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
            self.assertEqual(quietly([made]), 1)
        self.assertEqual(quietly([]), 0)

    def test_the_pinned_names_are_the_packages(self):
        lines = (check.SETS / "packages" / "names.txt").read_text().splitlines()
        names = [line for line in lines if not line.startswith("#")]
        self.assertEqual(names, [row["id"] for row in SETS["packages"].documents])


class BrokenSetsTest(unittest.TestCase):
    def assert_found(self, loaded, words):
        """The rule that names these words is broken."""
        found = check.problems(loaded)
        self.assertTrue(any(words in problem for problem in found), f"{words!r} not in {found[:5]}")

    def test_a_field_that_lacks_or_is_not_known(self):
        for name in SETS:
            loaded = copied(name)
            del loaded.questions[0]["split"]
            self.assert_found(loaded, "fields")
            loaded = copied(name)
            loaded.documents[0]["colour"] = "red"
            self.assert_found(loaded, "fields")

    def test_too_few_questions_in_all_and_of_an_ability(self):
        for name, least in check.LEAST_QUESTIONS.items():
            loaded = copied(name)
            del loaded.questions[least - 1 :]
            self.assert_found(loaded, f"fewer than {least}")
        for ability in check.ABILITIES["conversations"]:
            loaded = copied("conversations")
            kept = [question for question in loaded.questions if question["ability"] == ability][: check.LEAST_OF_ABILITY - 1]
            loaded.questions = kept + [question for question in loaded.questions if question["ability"] != ability]
            self.assert_found(loaded, f"24 questions of {ability}")

    def test_an_unknown_ability_half_or_language(self):
        for field in ("ability", "split", "language"):
            loaded = copied("conversations")
            loaded.questions[0][field] = "unheard"
            self.assert_found(loaded, "unknown")

    def test_halves_of_unequal_size_or_without_an_ability(self):
        loaded = copied("packages")
        for question in loaded.questions[:100]:
            question["split"] = "learn"
        self.assert_found(loaded, "the half report holds")
        loaded = copied("exact")
        for question in loaded.questions:
            if question["ability"] == "path":
                question["split"] = "learn"
        self.assert_found(loaded, "no question of path in the half report")

    def test_evidence_in_both_halves(self):
        loaded = copied("packages")
        learn = next(question for question in loaded.questions if question["split"] == "learn")
        report = next(question for question in loaded.questions if question["split"] == "report")
        report["evidence"] = list(learn["evidence"])
        self.assert_found(loaded, "evidence in both halves")

    def test_a_session_in_both_halves(self):
        loaded = copied("conversations")
        learn = next(question for question in loaded.questions if question["split"] == "learn")
        session = loaded.by_id[learn["evidence"][0]]["session"]
        other = next(row["id"] for row in loaded.documents if row["session"] == session and row["id"] not in learn["evidence"])
        report = first(loaded, "single_fact", lambda question: question["split"] == "report")
        report["evidence"] = [other]
        self.assert_found(loaded, f"{session} is evidence in both halves")

    def test_evidence_that_lacks_is_unknown_or_named_twice(self):
        loaded = copied("conversations")
        first(loaded, "single_fact")["evidence"] = ["s99-01"]
        self.assert_found(loaded, "s99-01 does not exist")
        loaded = copied("conversations")
        first(loaded, "changed_fact")["outdated"] = ["s99-02"]
        self.assert_found(loaded, "s99-02 does not exist")
        loaded = copied("conversations")
        first(loaded, "preference")["evidence"] = []
        self.assert_found(loaded, "0 places of evidence for preference")
        loaded = copied("conversations")
        first(loaded, "several_facts")["evidence"].pop()
        self.assert_found(loaded, "1 places of evidence for several_facts")
        loaded = copied("conversations")
        first(loaded, "not_answerable")["evidence"] = ["s01-01"]
        self.assert_found(loaded, "1 places of evidence for not_answerable")
        loaded = copied("conversations")
        first(loaded, "single_fact")["evidence"] *= 2
        self.assert_found(loaded, "evidence named twice")

    def test_duplicates(self):
        for name in SETS:
            loaded = copied(name)
            loaded.documents[1]["id"] = loaded.documents[0]["id"]
            self.assert_found(loaded, "occurs twice")
            loaded = copied(name)
            loaded.questions[1]["id"] = loaded.questions[0]["id"]
            self.assert_found(loaded, "occurs twice")
            loaded = copied(name)
            loaded.questions[1]["question"] = loaded.questions[0]["question"].upper()
            self.assert_found(loaded, "occurs twice")
        loaded = copied("conversations")
        loaded.documents[1]["text"] = " " + loaded.documents[0]["text"].upper()
        self.assert_found(loaded, "occurs twice")

    def test_a_question_that_repeats_its_evidence(self):
        for name in ("conversations", "packages"):
            loaded = copied(name)
            question = loaded.questions[0]
            held = loaded.text_of(loaded.by_id[question["evidence"][0]])
            words = [word for word in text.tokens(held) if word not in text.STOP[question["language"]] and len(word) > 1]
            question["question"] = " ".join(dict.fromkeys(words[:3])) + " zebra quagga okapi"
            self.assert_found(loaded, "with its evidence")

    def test_a_question_of_stop_words(self):
        loaded = copied("packages")
        loaded.questions[0]["question"] = "What is it that I want?"
        self.assert_found(loaded, "fewer than two content words")

    def test_neighbours_that_help(self):
        def isolated(question):
            return question["neighbours"] == "do not help" and not loaded.by_id[question["evidence"][0]]["id"].endswith("-01")

        loaded = copied("conversations")
        question = first(loaded, "single_fact", isolated)
        turn = loaded.by_id[question["evidence"][0]]
        near = next(row for row in loaded.documents if (row["session"], row["turn"]) == (turn["session"], turn["turn"] - 1))
        near["text"] += " " + question["question"]
        self.assert_found(loaded, f"{near['id']} beside {turn['id']} has")
        near["text"] = turn["text"] + " Really?"
        self.assert_found(loaded, f"{near['id']} and {turn['id']} have")

    def test_marks_of_neighbours(self):
        loaded = copied("conversations")
        first(loaded, "single_fact")["neighbours"] = "perhaps"
        self.assert_found(loaded, "neighbours 'perhaps'")
        loaded = copied("conversations")
        first(loaded, "not_answerable")["neighbours"] = "help"
        self.assert_found(loaded, "neighbours of no evidence")
        loaded = copied("conversations")
        marked = [question for question in loaded.questions if question.get("neighbours") == "do not help"]
        for question in marked[: len(marked) // 2]:
            question["neighbours"] = "help"
        self.assert_found(loaded, "fewer than a third")

    def test_too_few_sessions_turns_or_languages(self):
        loaded = copied("conversations")
        for turn in loaded.documents:
            turn["session"] = "s01"
        self.assert_found(loaded, "1 sessions")
        loaded = copied("conversations")
        del loaded.documents[599:]
        self.assert_found(loaded, "599 turns")
        loaded = copied("conversations")
        for turn in loaded.documents:
            turn["language"] = "en"
        self.assert_found(loaded, "sessions are German")
        self.assert_found(loaded, "no session has two languages")
        loaded = copied("conversations")
        loaded.documents[0]["language"] = "la"
        self.assert_found(loaded, "unknown language 'la'")

    def test_dates_that_do_not_ascend(self):
        loaded = copied("conversations")
        loaded.documents[5]["created_at"] = loaded.documents[4]["created_at"]
        self.assert_found(loaded, "not after the turn before it")
        loaded = copied("conversations")
        loaded.documents[5]["created_at"] = "yesterday"
        self.assert_found(loaded, "created_at 'yesterday'")
        loaded = copied("conversations")
        loaded.documents[5]["turn"] += 1
        self.assert_found(loaded, "stands at place")
        loaded = copied("conversations")
        loaded.documents[-1]["session"] = "s01"
        self.assert_found(loaded, "session s01 is interrupted")

    def test_a_question_asked_before_its_evidence_or_without_a_date(self):
        loaded = copied("conversations")
        first(loaded, "time")["now"] = "2020-01-01T00:00:00Z"
        self.assert_found(loaded, "now is not after the evidence")
        loaded = copied("conversations")
        first(loaded, "time")["now"] = "soon"
        self.assert_found(loaded, "now 'soon'")
        loaded = copied("conversations")
        del first(loaded, "time")["now"]
        self.assert_found(loaded, "a question of time without now")

    def test_a_changed_fact_without_an_older_place(self):
        loaded = copied("conversations")
        del first(loaded, "changed_fact")["outdated"]
        self.assert_found(loaded, "outdated places belong to changed facts")
        loaded = copied("conversations")
        question = first(loaded, "changed_fact")
        question["evidence"], question["outdated"] = question["outdated"], question["evidence"]
        self.assert_found(loaded, "the outdated place is not older")

    def test_too_few_or_too_large_documents(self):
        for name, least in check.LEAST_DOCUMENTS.items():
            loaded = copied(name)
            del loaded.documents[least - 1 :]
            self.assert_found(loaded, f"{least - 1} documents")
        loaded = copied("packages")
        loaded.documents[0]["description"] = "x" * check.MOST_BYTES
        self.assert_found(loaded, "bytes of documents")

    def test_identifiers_that_are_not_where_the_evidence_is(self):
        loaded = copied("exact")
        question = loaded.questions[0]
        other = next(row for row in loaded.documents if row["id"] not in question["evidence"])
        other["text"] += f" {question['identifier']} "
        self.assert_found(loaded, "stands in")
        for row in loaded.documents[: check.MOST_PLACES + 1]:
            row["text"] += f" {question['identifier']} "
        self.assert_found(loaded, f"more than {check.MOST_PLACES}")
        loaded = copied("exact")
        loaded.questions[0]["question"] = "something else"
        self.assert_found(loaded, "in 'something else'")
        loaded = copied("exact")
        loaded.questions[0]["form"] = "backwards"
        self.assert_found(loaded, "in the form 'backwards'")


class FormsTest(unittest.TestCase):
    def test_the_form_of_an_identifier_in_a_question(self):
        for identifier, question, form in (
            ("SO_PEERCRED", "what is SO_PEERCRED", "as written"),
            ("SO_PEERCRED", "what is so_peercred", "other case"),
            ("SO_PEERCRED", "what is so peercred", "split"),
            ("ControlPersist", "the option control_persist", "split"),
            ("core.autocrlf", "git autocrlf", "part"),
            ("/proc/sys/vm/swappiness", "swappiness of 10", "without path"),
            ("SO_PEERCRED", "what is peer", None),
        ):
            self.assertEqual(check.form_of(identifier, question), form, question)

    def test_a_longer_identifier_does_not_hold_a_shorter_one(self):
        self.assertTrue(check.holds("set TCP_CORK, then", "TCP_CORK"))
        self.assertTrue(check.holds("not a CODE\n   reference", "a CODE reference"))
        self.assertFalse(check.holds("set TCP_CORKED", "TCP_CORK"))
        self.assertFalse(check.holds("set XTCP_CORK", "TCP_CORK"))


class WordsTest(unittest.TestCase):
    def test_stop_words_go_and_endings_do_not_count(self):
        self.assertEqual(text.content_words("What did the flights cost?", "en"), {"flight", "cost"})
        self.assertEqual(text.content_words("The flight's costs", "en"), {"flight", "cost"})
        self.assertEqual(text.content_words("Welche Blumen mag die Sängerin?", "de"), text.content_words("Blume, Sängerin", "de"))
        self.assertEqual(text.content_words("A bus, two cats", "en"), text.content_words("bus two cat", "en"))

    def test_a_mixed_turn_loses_the_stop_words_of_both_languages(self):
        self.assertEqual(text.words_in_any("the Scheune und der barn", "en"), text.words_in_any("Scheune barn", "en"))


class BaselineTest(unittest.TestCase):
    def test_both_searches_find_the_only_document_with_a_word(self):
        texts = ["alpha beta", "gamma delta", "beta delta"]
        rows = [{"id": str(at), "source": "x", "text": held} for at, held in enumerate(texts)]
        loaded = check.Set("exact", rows, [])
        for engine in (baseline.Grep(loaded), baseline.Bm25(loaded)):
            self.assertEqual(engine.search(["gamma", "delta"]), ["1", "2"])
            self.assertEqual(engine.search(["epsilon"]), [])

    def test_the_weight_of_bm25_is_the_published_one(self):
        # By hand: two documents of two words, one with the word: idf = ln(1 + 1.5 / 1.5), norm = 1.2, so 0.6931 · 2.2 / 2.2.
        rows = [{"id": "a", "source": "x", "text": "one two"}, {"id": "b", "source": "x", "text": "three four"}]
        self.assertAlmostEqual(baseline.Bm25(check.Set("exact", rows, [])).scores(["one"])[0], 0.6931, places=4)

    def test_measures(self):
        self.assertEqual(baseline.measures(["a", "b"], {"a"}), (1.0, 1.0, 1.0))
        self.assertEqual(baseline.measures(["a", "b"], {"b", "c"}), (0.0, 0.5, 0.5))
        self.assertEqual(baseline.measures([], {"b"}), (0.0, 0.0, 0.0))


if __name__ == "__main__":
    unittest.main()
