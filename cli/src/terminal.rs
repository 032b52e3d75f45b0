//! What a terminal gets to see of texts that anyone may have written.
//!
//! A stored text may hold the sequences by which a program drives a terminal: moving the cursor over a line above, setting
//! its title, filling its clipboard. On a terminal they are shown as what they are; whoever pipes the output gets it as it
//! was stored.

use std::borrow::Cow;

/// The text with every character that drives a terminal or turns the direction of a line spelt out; line ends and tabs stay.
pub fn spelt_out(text: &str) -> Cow<'_, str> {
    if !text.contains(drives) {
        return Cow::Borrowed(text);
    }
    let text = text.replace("\r\n", "\n");
    let mut spelt = String::with_capacity(text.len());
    for c in text.chars() {
        if drives(c) { spelt.extend(c.escape_unicode()) } else { spelt.push(c) }
    }
    Cow::Owned(spelt)
}

/// As [`spelt_out`], but for the colours and weights that this program gives its own words.
pub fn styled(text: &str) -> Cow<'_, str> {
    if !text.contains(drives) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        shown.push_str(&spelt_out(&rest[..at]));
        rest = &rest[at..];
        let length = style_length(rest);
        shown.push_str(if length > 0 { &rest[..length] } else { "\\u{1b}" });
        rest = &rest[length.max(1)..];
    }
    shown.push_str(&spelt_out(rest));
    Cow::Owned(shown)
}

/// How long the colour or weight is that a text begins with; 0 if it begins with something else.
fn style_length(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else { return 0 };
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';');
    match end.filter(|&end| parameters[end..].starts_with('m')) {
        Some(end) if parameters[..end].split(';').all(is_style) => "\u{1b}[".len() + end + 1,
        _ => 0,
    }
}

/// Reset, bold, dim, italic, underlined, and the colours of text; nothing that hides it.
fn is_style(parameter: &str) -> bool {
    matches!(parameter.parse(), Ok(0..=4 | 30..=37 | 90..=97))
}

fn drives(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = matches!(c, '\u{2028}' | '\u{2029}');
    turns || breaks || (c.is_control() && c != '\n' && c != '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drives_a_terminal_is_spelt_out() {
        let table = [
            ("tea\n\tgreen", "tea\n\tgreen"),
            ("a\r\nb", "a\nb"),
            ("a\rb", "a\\u{d}b"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("a\u{202e}b\u{2066}c", "a\\u{202e}b\\u{2066}c"),
            ("Grüße 茶", "Grüße 茶"),
        ];
        for (text, shown) in table {
            assert_eq!(spelt_out(text), shown, "{text:?}");
        }
    }

    #[test]
    fn styles_of_the_program_stay_and_nothing_else_does() {
        let own = format!("{} tea\n", console::style("bold").bold().red().force_styling(true));
        assert_eq!(styled(&own), own);
        for (text, shown) in [
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("\u{1b}[8mhidden", "\\u{1b}[8mhidden"),
            ("\u{1b}[1;8m", "\\u{1b}[1;8m"),
            ("\u{1b}]52;c;AAAA\u{7}", "\\u{1b}]52;c;AAAA\\u{7}"),
            ("\u{1b}", "\\u{1b}"),
            ("\u{1b}[", "\\u{1b}["),
        ] {
            assert_eq!(styled(text), shown);
        }
    }
}
