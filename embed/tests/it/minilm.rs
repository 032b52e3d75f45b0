//! The real model against the reference implementation. Needs the files of `make model`.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::LazyLock;

use mira_embed::{EmbedError, Embedder, MiniLm};
use proptest::prelude::*;

/// Where `make model` puts the files, unless MIRA_MODEL_DIR says otherwise.
fn model_folder() -> PathBuf {
    std::env::var_os("MIRA_MODEL_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME or MIRA_MODEL_DIR is set");
        PathBuf::from(home).join(".cache/mira/model/all-MiniLM-L6-v2")
    })
}

static MODEL: LazyLock<MiniLm> = LazyLock::new(|| {
    let threads = NonZero::new(2).unwrap();
    MiniLm::load_with_threads(model_folder(), threads).unwrap_or_else(|error| panic!("{error}"))
});

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    vector: Vec<f32>,
}

fn reference() -> Vec<Case> {
    serde_json::from_str(include_str!("data/reference.json")).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn vectors_equal_the_reference() {
    let cases = reference();
    assert!(cases.len() >= 20);
    for case in cases {
        let found = MODEL.embed(&[&case.text]).unwrap().remove(0);
        let difference = largest_difference(&found, &case.vector);
        assert!(difference < 1e-4, "off by {difference} on {:?}", case.text);
        let length: f32 = found.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
}

#[test]
fn a_batch_equals_its_texts_one_by_one() {
    let cases = reference();
    let texts: Vec<&str> = cases.iter().chain(&cases).map(|case| case.text.as_str()).collect();
    for (text, together) in texts.iter().zip(MODEL.embed(&texts).unwrap()) {
        let alone = MODEL.embed(&[text]).unwrap().remove(0);
        assert!(largest_difference(&alone, &together) < 1e-5, "{text:?}");
    }
    assert!(MODEL.embed(&[]).unwrap().is_empty());
}

#[test]
fn text_beyond_the_limit_is_refused_or_split() {
    assert_eq!((MODEL.model().dim, MODEL.model().max_tokens), (384, 256));
    let text = "Nothing is dropped without a word. ".repeat(100);
    let error = MODEL.embed(&["short", &text]).unwrap_err();
    assert_eq!(error, EmbedError::TooLong { index: 1, tokens: 702, max: 256 });
    let parts = MODEL.passages(&text, 10).unwrap();
    assert_eq!(parts.len(), 4);
    assert!(parts[..3].iter().all(|part| text[part.range.clone()].trim_end().ends_with('.')));
    assert!(parts.windows(2).all(|pair| pair[1].range.start < pair[0].range.end));
    let texts: Vec<&str> = parts.iter().map(|part| &text[part.range.clone()]).collect();
    assert_eq!(MODEL.embed(&texts).unwrap().len(), 4);
    let error = MODEL.passages(&text, 3).unwrap_err();
    assert_eq!(error, EmbedError::TooManyPassages { bytes: text.len(), limit: 3 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever the text, its passages cover it and are not too long for the model.
    #[test]
    fn passages_of_any_text_can_be_embedded(text in r"(\PC{0,8}[a-z]{1,9}[ .\n]|[기억漢é\u{301}ﬁ]{1,40}|\n\n|[!-~]{1,60} ){0,150}") {
        let parts = MODEL.passages(&text, 1_000).unwrap();
        prop_assert_eq!(parts[0].range.start, 0);
        prop_assert_eq!(parts[parts.len() - 1].range.end, text.len());
        for pair in parts.windows(2) {
            prop_assert!(pair[0].range.start < pair[1].range.start && pair[1].range.start <= pair[0].range.end);
        }
        // The longest by bytes is the one most at risk; embedding all would take minutes.
        let longest = parts.iter().max_by_key(|part| part.range.len()).unwrap();
        prop_assert!(MODEL.embed(&[&text[longest.range.clone()]]).is_ok());
    }
}

#[test]
fn a_missing_or_damaged_file_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let load = || MiniLm::load(folder.path()).err().expect("the folder is not whole");
    let files = ["config.json", "tokenizer.json", "model.safetensors"];
    for file in files {
        let error = load();
        let missing = folder.path().join(file);
        assert!(matches!(&error, EmbedError::ModelMissing { path, .. } if *path == missing), "{error}");
        assert!(error.to_string().contains("run make model"));
        std::fs::copy(model_folder().join(file), &missing).expect("run make model");
    }
    assert!(MiniLm::load(folder.path()).is_ok());
    for file in files {
        let path = folder.path().join(file);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [&flipped, &whole[..whole.len() / 2], &[]] {
            std::fs::write(&path, damaged).unwrap();
            let error = load();
            assert!(matches!(&error, EmbedError::ModelDamaged { path: found, .. } if *found == path), "{error}");
            assert!(error.to_string().contains("run make model"));
        }
        std::fs::write(&path, &whole).unwrap();
    }
}
