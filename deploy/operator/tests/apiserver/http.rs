//! Paths and methods.

use super::store::{Key, Refusal};
use super::{Asked, Fate, Fault, Shared, watch};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a path names.
struct Target {
    group: String,
    resource: String,
    /// None: all namespaces.
    namespace: Option<String>,
    name: Option<String>,
    sub: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let head = match *parts.first()? {
            "api" => 2,
            "apis" => 3,
            _ => return None,
        };
        let group = parts.get(..head)?.join("/");
        let (namespace, rest) = match &parts[head..] {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
            rest => (None, rest),
        };
        let (resource, name, sub) = match rest {
            [resource] => (*resource, None, None),
            [resource, name] => (*resource, Some(*name), None),
            [resource, name, sub] => (*resource, Some(*name), Some(*sub)),
            _ => return None,
        };
        Some(Self {
            group,
            resource: resource.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            sub: sub.map(str::to_owned),
        })
    }

    fn key(&self, name: &str) -> Key {
        Key {
            group: self.group.clone(),
            resource: self.resource.clone(),
            namespace: self.namespace.clone().unwrap_or_default(),
            name: name.to_owned(),
        }
    }

    /// Whether an object is in this collection.
    fn holds(&self) -> impl Fn(&Key) -> bool + Send + Sync + use<> {
        let (group, resource) = (self.group.clone(), self.resource.clone());
        let namespace = self.namespace.clone();
        move |key| {
            let here = namespace
                .as_ref()
                .is_none_or(|wanted| *wanted == key.namespace);
            key.group == group && key.resource == resource && here
        }
    }

    /// A request of it as permissions name it.
    fn asked(&self, method: &Method, query: &str) -> Asked {
        let verb = match (method.as_str(), &self.name) {
            ("GET", None) if query.contains("watch=true") => "watch",
            ("GET", None) => "list",
            ("GET", Some(_)) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", _) => "delete",
            (other, _) => panic!("nobody asked with {other} before"),
        };
        let group = self
            .group
            .split('/')
            .nth(1)
            .filter(|_| self.group.starts_with("apis/"));
        let resource = match &self.sub {
            Some(sub) => format!("{}/{sub}", self.resource),
            None => self.resource.clone(),
        };
        Asked {
            verb,
            group: group.unwrap_or_default().to_owned(),
            resource,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// Version and kind of its objects, as they say themselves.
    fn types(&self) -> Value {
        let kind = match &*self.resource {
            "trainingjobs" => "TrainingJob",
            "statefulsets" => "StatefulSet",
            "leases" => "Lease",
            "events" => "Event",
            other => panic!("nobody asked for {other} before"),
        };
        let version = self
            .group
            .split_once('/')
            .map_or("", |(_, version)| version);
        json!({ "apiVersion": version, "kind": kind })
    }
}

/// The key of an object's path.
pub(super) fn key(path: &str) -> Option<Key> {
    let target = Target::parse(path)?;
    let name = target.name.clone()?;
    Some(target.key(&name))
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let (method, path) = (parts.method, parts.uri.path().to_owned());
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let Some(target) = Target::parse(&path) else {
        return refuse(&Refusal::new(404, format!("no such path: {path}")));
    };
    let fate = shared.fate();
    if fate == Fate::Unsent {
        return std::future::pending().await;
    }
    let asked = target.asked(&method, &query);
    shared.requests.lock().unwrap().insert(asked);
    let fault = shared.fault(method.as_str(), &path);
    match (fault, &target.name) {
        (Some(Fault::Refuse(code)), _) => {
            return refuse(&Refusal::new(code, "a fault of the test"));
        }
        (Some(Fault::Meddle), Some(name)) => {
            let meddled = json!({ "metadata": { "annotations": { "somebody": "else" } } });
            let key = target.key(name);
            shared.store().patch(&key, None, &meddled).unwrap();
            shared.tell();
        }
        _ => {}
    }
    let result = answer(&shared, &method, &target, &query, &body);
    shared.tell();
    if fate == Fate::Unheard {
        return std::future::pending().await;
    }
    match result {
        _ if fault == Some(Fault::Lose) => refuse(&Refusal::new(500, "the answer was lost")),
        Ok(response) => response,
        Err(refusal) => refuse(&refusal),
    }
}

fn answer(
    shared: &Arc<Shared>,
    method: &Method,
    target: &Target,
    query: &str,
    body: &Value,
) -> Result<Response, Refusal> {
    let sub = target.sub.as_deref();
    let Some(name) = &target.name else {
        return collection(shared, method, target, query, body);
    };
    let key = target.key(name);
    let mut store = shared.store();
    let object = match *method {
        Method::GET => store.get(&key)?,
        Method::PUT => store.replace(&key, sub, body)?,
        Method::PATCH => store.patch(&key, sub, body)?,
        Method::DELETE => store.delete(&key, body)?,
        _ => return Err(Refusal::new(405, "no such method")),
    };
    Ok(said(&match sub {
        Some("scale") => json!({
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": object["metadata"],
            "spec": { "replicas": object["spec"]["replicas"] },
        }),
        _ => object,
    }))
}

fn collection(
    shared: &Arc<Shared>,
    method: &Method,
    target: &Target,
    query: &str,
    body: &Value,
) -> Result<Response, Refusal> {
    let asked = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut found = pairs.filter(|(key, _)| *key == name);
        found.next().map(|(_, value)| value)
    };
    if *method == Method::POST {
        let namespace = target.namespace.clone().unwrap_or_default();
        if shared.ending.lock().unwrap().contains(&namespace) {
            let message = format!("namespace {namespace} is being terminated");
            return Err(Refusal::new(403, message));
        }
        let name = body["metadata"]["name"].as_str().unwrap();
        let created = shared.store().create(&target.key(name), body.clone())?;
        return Ok(said(&created));
    }
    if asked("watch") == Some("true") {
        let after = asked("resourceVersion").and_then(|version| version.parse().ok());
        let body = watch::body(shared, after.unwrap_or(0), target.types(), target.holds());
        return Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response());
    }
    let store = shared.store();
    let mut list = target.types();
    list["kind"] = format!("{}List", list["kind"].as_str().unwrap()).into();
    list["metadata"] = json!({ "resourceVersion": store.version().to_string() });
    list["items"] = store.list(target.holds()).into();
    Ok(said(&list))
}

fn said(object: &Value) -> Response {
    let body = Body::from(object.to_string());
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn refuse(refusal: &Refusal) -> Response {
    let code = StatusCode::from_u16(refusal.code).unwrap();
    (code, said(&refusal.status())).into_response()
}
