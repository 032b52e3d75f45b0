//! The router's operations as methods of the client, each a path with its request and answer.

use bytes::Bytes;
#[cfg(feature = "backup")]
use mira_proto::model::RepositoriesReply;
use mira_proto::model::{
    ChangeReply, ChangeRequest, Collection, CollectionSettings, ErasuresReply, ForgetReply, ForgetRequest, GrowReply,
    GrowRequest, KeysReply, MovesSetting, NodeChange, NodeChangeReply, RecallReply, RecallRequest, RotateReply,
    RotateRequest, ScanReply, ScanRequest, SearchReply, SearchRequest, SessionsReply, SessionsRequest, StatusReply,
    StatusRequest, StoreReply, StoreRequest, TuneReply, TuneRequest, UploadReply, UploadRequest, VerifyReply,
    VerifyRequest,
};
#[cfg(feature = "backup")]
use prost::Message;
#[cfg(feature = "backup")]
use reqwest::header::CONTENT_TYPE;
use reqwest::header::{ETAG, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Method, Response};
use uuid::Uuid;

use super::{Client, idempotency_key, innermost};
use crate::error::CliError;

/// A content on its way here.
pub struct Content {
    /// How many there are to come.
    pub bytes: u64,
    /// Names the version.
    pub etag: Option<String>,
    /// It begins with the first byte.
    pub is_whole: bool,
    url: String,
    response: Response,
}

impl Content {
    /// The next few bytes; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CliError> {
        let next = self.response.chunk().await;
        next.map_err(|error| CliError::Unreachable { url: self.url.clone(), cause: innermost(&error) })
    }
}

/// What a try before has received of a content.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Bytes that are here already.
    pub bytes: u64,
    /// The version that they are of.
    pub etag: Option<&'a str>,
}

#[derive(serde::Deserialize)]
struct CollectionList {
    collections: Vec<Collection>,
}

impl Client {
    /// Stores one item or a batch.
    pub async fn store(&self, request: &StoreRequest) -> Result<StoreReply, CliError> {
        self.write(Method::POST, &["mcp", "store"], Some(request)).await
    }

    /// Searches.
    pub async fn search(&self, request: &SearchRequest) -> Result<SearchReply, CliError> {
        self.read(Method::POST, &["mcp", "search"], Some(request)).await
    }

    /// Recalls.
    pub async fn recall(&self, request: &RecallRequest) -> Result<RecallReply, CliError> {
        self.read(Method::POST, &["mcp", "recall"], Some(request)).await
    }

    /// Forgets.
    pub async fn forget(&self, request: &ForgetRequest) -> Result<ForgetReply, CliError> {
        self.write(Method::POST, &["mcp", "forget"], Some(request)).await
    }

    /// Does something to one memory.
    pub async fn change(&self, request: &ChangeRequest) -> Result<ChangeReply, CliError> {
        self.write(Method::POST, &["mcp", "change"], Some(request)).await
    }

    /// Begins an upload. The same key with the same request goes on with the upload that it began before.
    pub async fn begin_upload(
        &self,
        collection: &str,
        request: &UploadRequest,
        key: Option<&str>,
    ) -> Result<UploadReply, CliError> {
        let key = key.map_or_else(idempotency_key, str::to_owned);
        let url = self.url(&["collections", collection, "uploads"])?;
        self.answer(|| self.http.post(url.clone()).json(request).header("idempotency-key", &key)).await
    }

    /// How far an upload has come.
    pub async fn upload(&self, collection: &str, upload: Uuid) -> Result<UploadReply, CliError> {
        self.read(Method::GET, &["collections", collection, "uploads", &upload.to_string()], None::<&()>).await
    }

    /// Adds bytes to an upload.
    pub async fn append(
        &self,
        collection: &str,
        upload: Uuid,
        offset: u64,
        bytes: Bytes,
    ) -> Result<UploadReply, CliError> {
        let url = self.url(&["collections", collection, "uploads", &upload.to_string()])?;
        self.answer(|| self.http.patch(url.clone()).header("upload-offset", offset).body(bytes.clone())).await
    }

    /// Makes a frame of an upload.
    pub async fn finish_upload(&self, collection: &str, upload: Uuid) -> Result<UploadReply, CliError> {
        self.write(Method::POST, &["collections", collection, "uploads", &upload.to_string(), "finish"], None::<&()>)
            .await
    }

    /// A memory's content behind what was received of it; all of it if it is of another version by now.
    pub async fn content(&self, collection: &str, id: Uuid, received: Received<'_>) -> Result<Content, CliError> {
        let mut request =
            self.http.get(self.url(&["collections", collection, "frames", &id.to_string(), "content"])?);
        if let Some(etag) = received.etag {
            request = request.header(RANGE, format!("bytes={}-", received.bytes)).header(IF_RANGE, etag);
        }
        let response = request.send().await.map_err(|error| self.no_answer(&error).error)?;
        if !response.status().is_success() {
            return Err(self.refused(response).await.error);
        }
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Content {
            bytes: response.content_length().unwrap_or_default(),
            etag: text(ETAG),
            is_whole: response.status() == reqwest::StatusCode::OK,
            url: self.base.to_string(),
            response,
        })
    }

    /// The state of the cluster.
    pub async fn status(&self, request: &StatusRequest) -> Result<StatusReply, CliError> {
        let url = self.url(&["mcp", "status"])?;
        self.answer(|| self.http.get(url.clone()).query(&[("detailed", request.detailed)])).await
    }

    /// Every collection.
    pub async fn collections(&self) -> Result<Vec<Collection>, CliError> {
        let reply: CollectionList = self.read(Method::GET, &["collections"], None::<&()>).await?;
        Ok(reply.collections)
    }

    /// One collection.
    pub async fn collection(&self, name: &str) -> Result<Collection, CliError> {
        self.read(Method::GET, &["collections", name], None::<&()>).await
    }

    /// A page of the sessions of a collection.
    pub async fn sessions(&self, name: &str, request: &SessionsRequest) -> Result<SessionsReply, CliError> {
        let url = self.url(&["collections", name, "sessions"])?;
        self.answer(|| self.http.get(url.clone()).query(request)).await
    }

    /// A page of everything in a collection.
    pub async fn scan(&self, name: &str, request: &ScanRequest) -> Result<ScanReply, CliError> {
        let url = self.url(&["collections", name, "frames"])?;
        self.answer(|| self.http.get(url.clone()).query(request)).await
    }

    /// Makes a collection; one that exists with the same settings is left as it is.
    pub async fn put_collection(&self, name: &str, settings: &CollectionSettings) -> Result<Collection, CliError> {
        self.write(Method::PUT, &["collections", name], Some(settings)).await
    }

    /// Spreads a collection over more shards, or says what that means.
    pub async fn grow_collection(&self, name: &str, request: &GrowRequest) -> Result<GrowReply, CliError> {
        self.write(Method::POST, &["collections", name, "grow"], Some(request)).await
    }

    /// Finds and sets the beam with which searches of a collection reach a recall.
    pub async fn tune_collection(&self, name: &str, request: &TuneRequest) -> Result<TuneReply, CliError> {
        self.write(Method::POST, &["collections", name, "tune"], Some(request)).await
    }

    /// Removes a collection with everything in it.
    pub async fn delete_collection(&self, name: &str) -> Result<(), CliError> {
        let key = idempotency_key();
        let url = self.url(&["collections", name])?;
        self.send(|| self.http.delete(url.clone()).header("idempotency-key", &key)).await.map(drop)
    }

    /// Adds, drains, replaces or removes a storage node, or says what that would move.
    pub async fn change_node(&self, change: &NodeChange) -> Result<NodeChangeReply, CliError> {
        self.write(Method::POST, &["admin", "nodes"], Some(change)).await
    }

    /// Stops moves of replicas for now, or lets them go on.
    pub async fn set_moves(&self, setting: &MovesSetting) -> Result<MovesSetting, CliError> {
        self.write(Method::POST, &["admin", "moves"], Some(setting)).await
    }

    /// Compares what the replicas of shards hold.
    pub async fn verify(&self, request: &VerifyRequest) -> Result<VerifyReply, CliError> {
        self.read(Method::POST, &["admin", "shards", "verify"], Some(request)).await
    }

    /// Makes the record of the owner's passphrase.
    pub async fn create_passphrase(&self) -> Result<(), CliError> {
        let url = self.url(&["owner", "passphrase"])?;
        self.send(|| self.http.put(url.clone())).await.map(drop)
    }

    /// Puts another passphrase in the place of the owner's.
    pub async fn change_passphrase(&self, new: &str) -> Result<(), CliError> {
        let mut new = HeaderValue::from_str(new)
            .map_err(|_| CliError::Usage("the new passphrase has characters that no header carries".to_owned()))?;
        new.set_sensitive(true);
        let url = self.url(&["owner", "passphrase"])?;
        self.send(|| self.http.post(url.clone()).header("x-mira-new-passphrase", &new)).await.map(drop)
    }

    /// Removes the record of the owner's passphrase.
    pub async fn remove_passphrase(&self) -> Result<(), CliError> {
        let key = idempotency_key();
        let url = self.url(&["owner", "passphrase"])?;
        self.send(|| self.http.delete(url.clone()).header("idempotency-key", &key)).await.map(drop)
    }

    /// The cluster's keys, by name.
    pub async fn keys(&self) -> Result<KeysReply, CliError> {
        self.read(Method::GET, &["admin", "keys"], None::<&()>).await
    }

    /// Puts another key in the place of the cluster's or of a collection's.
    pub async fn rotate_key(&self, request: &RotateRequest) -> Result<RotateReply, CliError> {
        self.write(Method::POST, &["admin", "keys", "rotate"], Some(request)).await
    }

    /// Keys that end, and those that have.
    pub async fn erasures(&self) -> Result<ErasuresReply, CliError> {
        self.read(Method::GET, &["admin", "erasures"], None::<&()>).await
    }

    /// Places that hold backups.
    #[cfg(feature = "backup")]
    pub async fn repositories(&self) -> Result<RepositoriesReply, CliError> {
        self.read(Method::GET, &["admin", "repositories"], None::<&()>).await
    }

    /// One step of a backup or a restore. Each may be repeated.
    #[cfg(feature = "backup")]
    pub async fn backup_step<Q: Message, A: Message + Default>(&self, step: &str, request: &Q) -> Result<A, CliError> {
        let url = self.url(&["admin", "backup", step])?;
        let body = bytes::Bytes::from(request.encode_to_vec());
        let post = || self.http.post(url.clone()).header(CONTENT_TYPE, "application/x-protobuf").body(body.clone());
        let answer = self.send(post).await?;
        A::decode(&answer[..]).map_err(|error| CliError::NotMira {
            url: self.base.to_string(),
            status: 200,
            start: error.to_string(),
        })
    }
}
