//! Collections by name: at hand, or asked for.

use std::sync::Arc;

use mira_proto::node_v1::{Collection, GetCollectionRequest, ListCollectionsRequest};
use mira_proto::{Code, Problem, limits};
use tokio::time::{Instant, sleep, timeout};

use super::{CallError, Cluster, CollectionRoute, View};
use crate::RequestContext;

/// What the nodes say of a name.
enum Told {
    Here(Arc<CollectionRoute>),
    Nowhere,
    /// Nobody answered, or the map changed meanwhile.
    Unsure,
}

impl Cluster {
    /// The collection of that name, as the newest map has it; asks the nodes if it is not at hand. None if no node that
    /// answers knows of it.
    pub async fn collection(&self, name: &str, deadline: Instant) -> Result<Option<Arc<CollectionRoute>>, Problem> {
        loop {
            let view = self.view_by(deadline).await?;
            if let Some(route) = view.collection(name) {
                return Ok(Some(route.clone()));
            }
            match self.ask_for(name, &view, deadline).await {
                Told::Here(route) => return Ok(Some(route)),
                Told::Nowhere => return Ok(None),
                Told::Unsure if deadline.saturating_duration_since(Instant::now()) < limits::RETRY_PAUSE => {
                    let detail = format!("no storage node says in time whether there is a collection {name:?}");
                    return Err(Problem::new(Code::Unavailable, detail));
                }
                Told::Unsure => sleep(limits::RETRY_PAUSE / 5).await,
            }
        }
    }

    async fn ask_for(&self, name: &str, view: &View, deadline: Instant) -> Told {
        let mut nowhere = false;
        for address in self.addresses() {
            let Ok(clients) = self.connections.clients(&address) else { continue };
            let request = GetCollectionRequest { name: name.to_owned() };
            let patience = limits::READ_TRY.min(deadline.saturating_duration_since(Instant::now()));
            let Ok(Ok(reply)) = timeout(patience, clients.cluster().get_collection(request)).await else { continue };
            let reply = reply.into_inner();
            // A node whose map is older than ours knows less than we do.
            if reply.epoch < view.epoch {
                continue;
            }
            let Some(found) = reply.collection else {
                nowhere = true;
                continue;
            };
            if reply.epoch > view.epoch {
                self.refresh(reply.epoch).await;
            }
            return self.learn(found, reply.epoch).map_or(Told::Unsure, Told::Here);
        }
        if nowhere { Told::Nowhere } else { Told::Unsure }
    }

    /// Keeps a collection at hand, if it is in the newest map as a node has told.
    fn learn(&self, found: Collection, as_of: u64) -> Option<Arc<CollectionRoute>> {
        let _alone = self.installing.lock();
        let name = found.name.clone();
        let view = self.view()?.with(found, as_of)?;
        let route = view.collection(&name).cloned();
        self.view.store(Some(Arc::new(view)));
        route
    }

    /// All collections by name, as the meta group's leader has them.
    pub async fn all_collections(&self, context: &RequestContext) -> Result<Vec<Collection>, CallError> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let request = ListCollectionsRequest { after };
            let page = self.ask_meta(context, "list_collections", request, |clients, request| async move {
                clients.cluster().list_collections(request).await
            });
            let page = page.await?;
            after = page.collections.last().map(|last| last.name.clone()).unwrap_or_default();
            all.extend(page.collections);
            if !page.more || after.is_empty() {
                return Ok(all);
            }
        }
    }
}
