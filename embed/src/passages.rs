//! Cutting long text into passages that fit a model.
//!
//! A passage ends where a reader would pause: within the last quarter of what fits, the best of a paragraph's end, a
//! line's end, a sentence's end, a word's end is taken, and of equals the last. The next passage begins some tokens
//! before that, so that a statement on the border stands whole in one of the two. Guarantees, for any text:
//!
//! * the passages are in order, the first begins at 0, the last ends with the text, and each begins no later than the
//!   one before it ends, so that nothing is left out;
//! * all borders lie between characters, and between words unless a single word does not fit;
//! * each passage has at most `max_tokens` tokens when tokenized by itself;
//! * more passages than the limit are an error.

use std::ops::Range;

use crate::EmbedError;

/// Tokens that consecutive passages have in common: about one sentence.
pub const PASSAGE_OVERLAP_TOKENS: usize = 32;

/// The overlap may be at most this part (a quarter) of a passage: since a passage may end after three quarters of what
/// fits, at least half of each is new.
pub const MAX_OVERLAP_SHARE: usize = 4;

/// A part of a text, as byte positions on character borders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Where it lies in the text.
    pub range: Range<usize>,
}

/// A token of a text: where it lies, and which word it belongs to. Words count up; tokens of one word share a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Bytes of the text that became the token.
    pub range: Range<usize>,
    /// Number of its word.
    pub word: u32,
}

/// How to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassagePlan {
    /// Tokens of a passage at most.
    pub max_tokens: usize,
    /// Tokens that consecutive passages should have in common; at most `max_tokens / MAX_OVERLAP_SHARE`.
    pub overlap: usize,
    /// Passages at most.
    pub limit: usize,
}

/// How good a place between two tokens is for the end of a passage, worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Border {
    /// Between two tokens made from the same character: no place to cut.
    None,
    InWord,
    Word,
    Sentence,
    Line,
    Paragraph,
}

/// Cuts `text`, whose tokens are `tokens` in order, into passages as `plan` says.
///
/// `count` tokenizes a part by itself. It is asked because a part may have more tokens than it had within the text,
/// when a word was cut or a character means something else at the beginning; such a part is made shorter.
///
/// Fails with [`EmbedError::TooManyPassages`], with [`EmbedError::TooLong`] if a part cannot be made short enough
/// (one character gives more than `max_tokens` tokens), or as `count` does. Panics if the plan's overlap is too large
/// or one of its limits 0.
pub fn passages(
    text: &str,
    tokens: &[Token],
    plan: PassagePlan,
    count: impl Fn(&str) -> Result<usize, EmbedError>,
) -> Result<Vec<Passage>, EmbedError> {
    assert!(plan.max_tokens > 0 && plan.limit > 0, "a passage needs tokens and a text a passage");
    assert!(plan.overlap <= plan.max_tokens / MAX_OVERLAP_SHARE, "the overlap leaves too little that is new");
    let cutter = Cutter { text, tokens, plan };
    let mut found: Vec<Passage> = Vec::new();
    let (mut first, mut end) = (0, cutter.end_that_fits(0, &count)?);
    loop {
        found.push(Passage { range: cutter.range(first, end) });
        if end == tokens.len() {
            break;
        }
        if found.len() == plan.limit {
            return Err(EmbedError::TooManyPassages { bytes: text.len(), limit: plan.limit });
        }
        let previous_end = end;
        first = cutter.next_first(first, previous_end);
        end = cutter.end_that_fits(first, &count)?;
        if end <= previous_end {
            // A long word follows, for which the overlap leaves no room.
            first = previous_end;
            end = cutter.end_that_fits(first, &count)?;
        }
    }
    debug_assert!(found.first().is_some_and(|p| p.range.start == 0));
    debug_assert!(found.last().is_some_and(|p| p.range.end == text.len()));
    debug_assert!(found.windows(2).all(|p| p[0].range.start < p[1].range.start && p[1].range.start <= p[0].range.end));
    Ok(found)
}

struct Cutter<'a> {
    text: &'a str,
    tokens: &'a [Token],
    plan: PassagePlan,
}

impl Cutter<'_> {
    /// The bytes from token `first` to before token `end`, with the white space that follows.
    fn range(&self, first: usize, end: usize) -> Range<usize> {
        let start = if first == 0 { 0 } else { self.tokens[first].range.start };
        start..self.tokens.get(end).map_or(self.text.len(), |token| token.range.start)
    }

    /// One past the last token of the passage that begins with token `first`.
    fn end_that_fits(
        &self,
        first: usize,
        count: impl Fn(&str) -> Result<usize, EmbedError>,
    ) -> Result<usize, EmbedError> {
        let mut room = self.plan.max_tokens;
        loop {
            let end = self.best_end(first, room);
            let tokens = match end {
                // The whole text was counted by whoever tokenized it.
                Some(end) if first == 0 && end == self.tokens.len() => return Ok(end),
                Some(end) => count(&self.text[self.range(first, end)])?,
                None => self.tokens.len() - first,
            };
            match end {
                Some(end) if tokens <= self.plan.max_tokens => return Ok(end),
                Some(end) if end > first + 1 => {
                    room = (end - first).saturating_sub((tokens - self.plan.max_tokens).min(end - first - 1)).max(1);
                }
                _ => return Err(EmbedError::TooLong { index: 0, tokens, max: self.plan.max_tokens }),
            }
        }
    }

    /// The best end within `room` tokens of `first`, or `None` if the text cannot be cut there at all.
    fn best_end(&self, first: usize, room: usize) -> Option<usize> {
        if self.tokens.len() - first <= room {
            return Some(self.tokens.len());
        }
        let (last, preferred) = (first + room, first + room - room / 4);
        // `max_by_key` takes the last of equals.
        let near = (preferred..=last).filter(|&at| at > first).max_by_key(|&at| self.border(at));
        if let Some(at) = near.filter(|&at| self.border(at) >= Border::Word) {
            return Some(at);
        }
        let longest = |least: Border| (first + 1..=last).rev().find(|&at| self.border(at) >= least);
        longest(Border::Word).or_else(|| longest(Border::InWord))
    }

    /// Where the passage after `first..end` begins: at the first word within the overlap, else without overlap.
    fn next_first(&self, first: usize, end: usize) -> usize {
        let earliest = end.saturating_sub(self.plan.overlap).max(first + 1);
        (earliest..end).find(|&at| self.border(at) >= Border::Word).unwrap_or(end)
    }

    /// What a border before token `at` would cut, for `at` of 1 up to the number of tokens.
    fn border(&self, at: usize) -> Border {
        let (before, Some(after)) = (&self.tokens[at - 1], self.tokens.get(at)) else { return Border::Paragraph };
        if after.range.start < before.range.end {
            return Border::None;
        }
        if before.word == after.word {
            return Border::InWord;
        }
        let gap = &self.text[before.range.end..after.range.start];
        let ends_sentence = |c: char| matches!(c, '.' | '!' | '?' | '…');
        match self.text[..before.range.end].chars().next_back() {
            _ if gap.matches('\n').nth(1).is_some() => Border::Paragraph,
            _ if gap.contains('\n') => Border::Line,
            Some('。' | '！' | '？') => Border::Sentence,
            Some(c) if ends_sentence(c) && !gap.is_empty() => Border::Sentence,
            _ => Border::Word,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of at most three characters of each word, so that words have several tokens as they do in WordPiece.
    fn tokenize(text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut word = 0;
        let mut previous_end = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
            let end = at + c.len_utf8();
            let chars_of = |token: &Token| text[token.range.clone()].chars().count();
            match tokens.last_mut() {
                Some(last) if previous_end == at && chars_of(last) < 3 => last.range.end = end,
                last => {
                    word += u32::from(last.is_some() && previous_end != at);
                    tokens.push(Token { range: at..end, word });
                }
            }
            previous_end = end;
        }
        tokens
    }

    fn count(part: &str) -> Result<usize, EmbedError> {
        Ok(tokenize(part).len())
    }

    fn cut(text: &str, max_tokens: usize, overlap: usize) -> Vec<&str> {
        let plan = PassagePlan { max_tokens, overlap, limit: 1_000 };
        passages(text, &tokenize(text), plan, count).unwrap().into_iter().map(|p| &text[p.range]).collect()
    }

    #[test]
    fn text_that_fits_is_one_passage() {
        for text in ["", " ", "\n\n", "one", "  one two ", "日本"] {
            assert_eq!(cut(text, 4, 1), [text]);
        }
    }

    #[test]
    fn ends_are_sought_at_paragraphs_then_sentences_then_words() {
        assert_eq!(cut("a b c d.\n\ne f g. h i j k", 8, 0), ["a b c d.\n\ne f g. ", "h i j k"]);
        assert_eq!(cut("a b c d e f.\n\ng h. i j k", 8, 0), ["a b c d e f.\n\n", "g h. i j k"]);
        assert_eq!(cut("a b c d e f g h i j", 4, 0), ["a b c d ", "e f g h ", "i j"]);
    }

    #[test]
    fn passages_overlap_by_whole_words() {
        assert_eq!(cut("a b c d e f g h i j", 4, 1), ["a b c d ", "d e f g ", "g h i j"]);
    }

    #[test]
    fn a_word_that_does_not_fit_is_cut_between_characters() {
        assert_eq!(cut("éèêéèêéèêéèêéèêéèê", 4, 1), ["éèêéèêéèêéèê", "éèêéèê"]);
    }

    #[test]
    fn a_part_that_grows_when_tokenized_alone_is_made_shorter() {
        let text = "a b c d e f g h i j k l";
        let plan = PassagePlan { max_tokens: 4, overlap: 0, limit: 100 };
        let grows = |part: &str| Ok(tokenize(part).len() + 1);
        let parts = passages(text, &tokenize(text), plan, grows).unwrap();
        assert!(parts.iter().all(|p| tokenize(&text[p.range.clone()]).len() <= 3), "{parts:?}");
        let never = |_: &str| Ok(9);
        assert!(matches!(passages(text, &tokenize(text), plan, never), Err(EmbedError::TooLong { .. })));
    }

    #[test]
    fn more_passages_than_allowed_are_an_error() {
        let text = "a b c d e f g h i j";
        let plan = |limit| PassagePlan { max_tokens: 4, overlap: 0, limit };
        assert_eq!(passages(text, &tokenize(text), plan(3), count).unwrap().len(), 3);
        let error = passages(text, &tokenize(text), plan(2), count).unwrap_err();
        assert_eq!(error, EmbedError::TooManyPassages { bytes: text.len(), limit: 2 });
    }

    #[test]
    fn characters_of_several_tokens_are_never_cut() {
        let token = |range, word| Token { range, word };
        // Hangul syllables become several tokens of the same bytes.
        let tokens = [token(0..3, 0), token(0..3, 0), token(3..6, 0), token(3..6, 0)];
        let plan = PassagePlan { max_tokens: 3, overlap: 0, limit: 10 };
        let parts = passages("기억", &tokens, plan, |part| Ok(part.chars().count() * 2)).unwrap();
        assert_eq!(parts, [Passage { range: 0..3 }, Passage { range: 3..6 }]);
    }

    proptest! {
        #[test]
        fn passages_cover_any_text(
            text in r"([a-z]{1,12}|[äß漢字🦀]{1,5}|[.!?。]|[ \n\t]{1,3}){0,60}",
            max_tokens in 1_usize..20,
            overlap_share in 0_usize..=4,
        ) {
            let overlap = max_tokens / MAX_OVERLAP_SHARE * overlap_share / 4;
            let tokens = tokenize(&text);
            let plan = PassagePlan { max_tokens, overlap, limit: 10_000 };
            let parts = passages(&text, &tokens, plan, count).unwrap();
            prop_assert_eq!(parts[0].range.start, 0);
            prop_assert_eq!(parts.last().unwrap().range.end, text.len());
            for part in &parts {
                // Slicing panics off a character border.
                prop_assert!(count(&text[part.range.clone()]).unwrap() <= max_tokens);
            }
            for pair in parts.windows(2) {
                prop_assert!(pair[0].range.start < pair[1].range.start);
                prop_assert!(pair[0].range.end < pair[1].range.end);
                prop_assert!(pair[1].range.start <= pair[0].range.end);
                let shared = count(&text[pair[1].range.start..pair[0].range.end]).unwrap();
                prop_assert!(shared <= overlap, "{} tokens shared", shared);
            }
            // Each brings at least one new token.
            prop_assert!(parts.len() <= tokens.len().max(1));
        }

        #[test]
        fn single_letters_overlap_exactly(words in 0_usize..200, max_tokens in 8_usize..40) {
            let text = "a ".repeat(words);
            let overlap = max_tokens / 4;
            let plan = PassagePlan { max_tokens, overlap, limit: 10_000 };
            let parts = passages(&text, &tokenize(&text), plan, count).unwrap();
            for pair in parts.windows(2) {
                prop_assert_eq!(pair[0].range.end - pair[1].range.start, 2 * overlap);
            }
            let rest = words.saturating_sub(max_tokens);
            prop_assert_eq!(parts.len(), 1 + rest.div_ceil(max_tokens - overlap));
        }
    }
}
