//! What handlers take from a request: who asks, what the path names, what the body says.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use mira_proto::Problem;
use schemars::JsonSchema;
use schemars::generate::SchemaGenerator;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::failure::Failure;
use super::operation::Media;
use super::{Api, body};
use crate::RequestContext;
use crate::operations::validate::collection_name;

/// Who sent a request, for the handlers behind the gate.
#[derive(Clone)]
pub(super) struct Principal(pub(super) Arc<str>);

/// The context of a request that the gate let through.
pub(super) struct Caller(pub(super) RequestContext);

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        let Some(Principal(principal)) = parts.extensions.get().cloned() else {
            return Err(Problem::internal("a request came past the gate").into());
        };
        Ok(Caller(api.context(principal, &parts.headers)?))
    }
}

/// A collection's name in the path, as it is kept; a slash in it comes as `%2F`.
pub(super) struct Name(pub(super) String);

impl FromRequestParts<Arc<Api>> for Name {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        match Path::<String>::from_request_parts(parts, api).await {
            Ok(Path(name)) => Ok(Name(collection_name(&name)?)),
            Err(_) => Err(Problem::invalid("the name in the path is not UTF-8").into()),
        }
    }
}

/// A collection, and an upload or a frame in it, in the path.
pub(super) struct NameAndId(pub(super) String, pub(super) Uuid);

impl FromRequestParts<Arc<Api>> for NameAndId {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        match Path::from_request_parts(parts, api).await {
            Ok(Path((collection, id))) => {
                let collection: String = collection;
                Ok(NameAndId(collection_name(&collection)?, id))
            }
            Err(_) => Err(Problem::invalid(
                "the path names a collection and an id: one is not UTF-8, or the id is not a UUID",
            )
            .into()),
        }
    }
}

/// What a request says behind the question mark.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for Parameters<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Failure> {
        match Query::<T>::from_request_parts(parts, api).await {
            Ok(Query(parameters)) => Ok(Parameters(parameters)),
            Err(rejection) => Err(Problem::invalid(wrong_parameter(&rejection.body_text())).into()),
        }
    }
}

/// What is wrong with the parameters, by the one that the library names.
fn wrong_parameter(said: &str) -> String {
    let said = said.rsplit_once("query string: ").map_or(said, |(_, said)| said);
    let of_field = ["unknown field", "missing field"].into_iter().find_map(|word| said.find(word));
    if let Some(from) = of_field {
        return said[from..].to_owned();
    }
    match said.split_once(": ") {
        Some((name, _)) if !name.contains(' ') => format!("the parameter {name} has a value that it cannot have"),
        _ => "a parameter behind the question mark is wrong".to_owned(),
    }
}

/// A JSON body.
pub(super) struct Document<T>(pub(super) T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Arc<Api>> for Document<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        let media_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let problem = Problem::invalid("the body must be JSON: send the header Content-Type: application/json");
            return Err(Failure::with(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem));
        }
        Ok(Document(body::parse(body::read(request, api).await?, "the request is wrong").await?))
    }
}

/// What an operation takes from a request beside its context.
pub(super) trait Input: Sized + Send + 'static {
    /// Reads it.
    fn read(request: Request, api: &Arc<Api>) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// What the body is.
    fn media() -> Media {
        Media::Empty
    }
}

impl Input for () {
    async fn read(_: Request, _: &Arc<Api>) -> Result<Self, Failure> {
        Ok(())
    }
}

impl Input for NameAndId {
    async fn read(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        NameAndId::from_request_parts(&mut request.into_parts().0, api).await
    }
}

impl<T: DeserializeOwned + Send + 'static> Input for Parameters<T> {
    async fn read(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        Parameters::from_request_parts(&mut request.into_parts().0, api).await
    }
}

impl<T: DeserializeOwned + JsonSchema + Send + 'static> Input for Document<T> {
    async fn read(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        Document::from_request(request, api).await
    }

    fn media() -> Media {
        Media::Json(SchemaGenerator::subschema_for::<T>)
    }
}

/// Something of the collection that the path names.
impl<I: Input> Input for (Name, I) {
    async fn read(request: Request, api: &Arc<Api>) -> Result<Self, Failure> {
        let (mut parts, body) = request.into_parts();
        let name = Name::from_request_parts(&mut parts, api).await?;
        Ok((name, I::read(Request::from_parts(parts, body), api).await?))
    }

    fn media() -> Media {
        I::media()
    }
}
