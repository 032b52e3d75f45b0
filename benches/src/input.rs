//! What is stored and asked: real texts and embeddings where there are any.

use std::path::PathBuf;
use std::sync::Arc;

use mira_embed::MiniLm;

use crate::BenchError;
use crate::texts::Texts;
use crate::vectors::Vectors;

/// Texts collected for questions and imports.
const TEXTS: usize = 3_000;
/// Characters of each.
const TEXT_CHARS: usize = 400;
/// Texts that are embedded where no embeddings are given; the rest of the vectors are copies of these with noise.
const EMBEDDED: usize = 2_200;
/// Characters of those: enough for a subject, a quarter of the time.
const EMBEDDED_CHARS: usize = 100;
/// Made-up texts; they are used again and again.
const INVENTED: usize = 200;

/// Where texts and vectors come from.
#[derive(Debug, Clone)]
pub enum Input {
    /// Texts of this machine, and embeddings of them or from a folder.
    Real {
        /// A folder that [`Vectors::read`] can read.
        embeddings: Option<PathBuf>,
        /// Folder of the embedding model, if not where `make model` puts it.
        model: Option<PathBuf>,
    },
    /// Made up, with vectors of so many components.
    Invented {
        /// Components.
        dim: usize,
    },
}

impl Input {
    /// Loads it, with at least `rows` vectors. Embedding takes some seconds the first time; what was embedded is kept.
    ///
    /// # Errors
    /// When a file or the model cannot be read.
    pub fn load(&self, rows: usize) -> Result<(Arc<Texts>, Arc<Vectors>), BenchError> {
        let (embeddings, model) = match self {
            Input::Real { embeddings, model } => (embeddings, model),
            Input::Invented { dim } => {
                return Ok((Arc::new(Texts::invent(INVENTED, TEXT_CHARS)), Arc::new(Vectors::invent(rows, *dim))));
            }
        };
        let cache = cache_folder();
        let texts = Texts::collect(TEXTS, TEXT_CHARS, &cache)?;
        let vectors = match embeddings {
            Some(folder) => Vectors::read(folder, rows)?,
            None => {
                let folder = model.clone().or_else(|| std::env::var_os("MIRA_MODEL_DIR").map(PathBuf::from));
                let folder = folder.unwrap_or_else(|| cache.join("../model/all-MiniLM-L6-v2"));
                let model = MiniLm::load(&folder)
                    .map_err(|error| BenchError::Input(format!("the model in {}: {error}", folder.display())))?;
                let short = texts.all().iter().take(EMBEDDED).map(|text| text.chars().take(EMBEDDED_CHARS).collect());
                Vectors::embed(&short.collect::<Vec<String>>(), rows, &cache, &model)?
            }
        };
        Ok((Arc::new(texts), Arc::new(vectors)))
    }
}

/// `$XDG_CACHE_HOME/mira/bench`, else under `~/.cache`.
pub fn cache_folder() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| Some(std::env::home_dir()?.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("mira/bench")
}
