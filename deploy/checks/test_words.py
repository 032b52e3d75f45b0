"""Tests of the check for words."""

import unittest

import words

RULES = words.rules(words.LIST.read_text())


def found(text, path="node/src/x.rs"):
    return [(line, word) for line, word, _ in words.find(path, text, RULES)]


class WordsTest(unittest.TestCase):
    def test_a_word_is_found_in_every_form_of_a_name(self):
        for text in ("heir", "the Heirs", "next_heir", "heir_of", "NextHeir", "HeirState", "HEIR_SHARDS", "heirs()"):
            self.assertEqual(len(found(text)), 1, text)

    def test_other_words_that_hold_it_are_left_alone(self):
        for text in ("their", "Their", "heirloom", "amend", "recommended", "trolley", "broad", "payroll", "THEIR"):
            self.assertEqual(found(text), [], text)

    def test_the_line_and_the_term_are_named(self):
        self.assertEqual(words.find("a.md", "x\nto mend it\n", words.rules("mend | all | repair")), [(2, "mend", "repair")])

    def test_a_phrase_is_found_across_lines_and_comments(self):
        self.assertEqual(found("/// The index is made\n/// anew.\n"), [(1, "made /// anew")])
        self.assertEqual(found("rolled\nforward", "docs/x.md"), [(1, "rolled forward")])
        self.assertEqual(found("sealed anew"), [])

    def test_words_that_are_only_no_names_may_stand_in_prose(self):
        self.assertEqual(found("// down the road\nlet x = 1;"), [])
        self.assertEqual(found("let road = 1; // the road"), [(1, "road")])
        self.assertEqual(found('json!({"road": "scan"})'), [(1, "road")])
        self.assertEqual(found("A road goes on.", "README.md"), [])
        self.assertEqual(found("The field `road`.", "README.md"), [(1, "road")])
        self.assertEqual(found("fn set_aside() {}"), [(1, "set_aside")])
        self.assertEqual(found('let url = "http://x/roll";'), [(1, "roll")])

    def test_texts_that_a_search_is_measured_on_are_left_alone(self):
        self.assertFalse(words.is_read("eval/sets/packages/documents.jsonl"))
        self.assertTrue(words.is_read("eval/sets/packages/make_documents.py"))
        self.assertTrue(words.is_read("eval/README.md"))
        self.assertTrue(words.is_read("node/src/x.rs"))

    def test_an_allowance_covers_its_line_and_in_a_record_its_file(self):
        text = "Now called target: heirs. <!-- words: heir -->\nAn heir has tenure.\n"
        self.assertEqual(found(text, "CHANGELOG.md"), [(2, "heir"), (2, "tenure")])
        self.assertEqual(found(text, "docs/adr/0007-x.md"), [(2, "tenure")])
        self.assertEqual(found("// heirs <!-- words: heir -->"), [(1, "heir"), (1, "heirs")])

    def test_a_list_with_another_place_is_refused(self):
        with self.assertRaises(ValueError):
            words.rules("heir | docs | target")


if __name__ == "__main__":
    unittest.main()
