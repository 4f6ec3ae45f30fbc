//! The layer before everything that is served: asks who calls, lets in or refuses, counts, writes down.

use super::audit::Entry;
use super::guard::{self, Guard};
use super::limits::{OPERATOR, Permit, Span};
use super::table::{Call, Need};
use super::{
    Access, Method, Object, Principal, Role, certificates, denied, refusal, unauthenticated,
};
use espalier_proto::{ApiError, ErrorKind};
use espalier_tls::{Caller, Identity, Kind};
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use http::{HeaderMap, Request, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// The cookie that the page gets when somebody logs in.
const COOKIE_NAME: &str = "espalier_session";

/// Puts [`Access`] before a service.
#[derive(Clone, Debug)]
pub struct AccessLayer {
    access: Arc<Access>,
}

impl AccessLayer {
    pub(super) fn new(access: Arc<Access>) -> Self {
        Self { access }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = AccessService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AccessService {
            inner,
            access: self.access.clone(),
        }
    }
}

/// A service that only those reach who may.
#[derive(Clone, Debug)]
pub struct AccessService<S> {
    inner: S,
    access: Arc<Access>,
}

impl<S, B> Service<Request<Body>> for AccessService<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The one that is ready is taken; its clone may not be.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let access = self.access.clone();
        let visit = Arc::new(Visit::of(&mut request));
        Box::pin(async move {
            let (caller, permit) = match access.admit(&visit).await {
                Ok(admitted) => admitted,
                Err(refused) => return Ok(access.refuse(&visit, *refused)),
            };
            let extensions = request.extensions_mut();
            extensions.insert(visit.object.clone());
            if let Some(caller) = &caller {
                extensions.insert(caller.clone());
            }
            let lasting = caller.as_ref().filter(|_| visit.call.span == Span::Watch);
            let guard = lasting
                .filter(|_| access.enabled)
                .map(|caller| Guard::begin(access.clone(), visit.clone(), caller.clone()));
            if let Some(guard) = &guard {
                extensions.insert(guard.cut.clone());
            }
            let response = inner.call(request).await?;
            access.answered(&visit, caller.as_ref(), &response);
            let is_grpc = visit.is_grpc;
            Ok(response.map(|body| Body::new(Held::new(Body::new(body), permit, guard, is_grpc))))
        })
    }
}

/// What is known of a request before it is known who makes it.
pub(super) struct Visit {
    pub(super) call: Call,
    pub(super) path: String,
    is_grpc: bool,
    caller: Option<Caller>,
    token: Option<String>,
    object: Object,
}

impl Visit {
    fn of(request: &mut Request<Body>) -> Self {
        // Whoever prints headers prints no secrets.
        for name in [AUTHORIZATION, COOKIE] {
            if let Some(value) = request.headers_mut().get_mut(name) {
                value.set_sensitive(true);
            }
        }
        let path = request.uri().path();
        let content = request.headers().get(CONTENT_TYPE);
        Self {
            call: Call::of(request.method(), path),
            path: path.to_owned(),
            is_grpc: content
                .is_some_and(|content| content.as_bytes().starts_with(b"application/grpc")),
            caller: request.extensions().get::<Caller>().cloned(),
            token: token(request.headers(), path.starts_with("/api/")),
            object: Object::default(),
        }
    }

    fn address(&self) -> String {
        let caller = self.caller.as_ref();
        caller.map_or_else(String::new, |caller| caller.address.to_string())
    }

    /// Whose limits count where nobody is known.
    fn host(&self) -> String {
        let caller = self.caller.as_ref();
        caller.map_or_else(String::new, |caller| {
            format!("host {}", caller.address.ip())
        })
    }

    /// Whom the certificate names, if there is one that names anybody.
    fn identity(&self) -> Option<&Identity> {
        self.caller.as_ref()?.identity.as_ref()
    }
}

/// Who is let in, if it has to be known, and the place that it takes.
type Admitted = (Option<Principal>, Option<Permit>);

/// Who is not let in, if it is known, and why.
struct Refused {
    caller: Option<Principal>,
    error: ApiError,
}

impl Refused {
    fn new(caller: Option<Principal>, error: ApiError) -> Box<Self> {
        Box::new(Self { caller, error })
    }
}

/// The token in a request's header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let given = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a request comes with a token in its header, so that none of a cookie counts.
pub(crate) fn has_bearer(headers: &HeaderMap) -> bool {
    bearer(headers).is_some()
}

/// The token of a request: of its header, or, for the page's gateway alone, of its cookie.
fn token(headers: &HeaderMap, with_cookie: bool) -> Option<String> {
    let bearer = bearer(headers);
    if bearer.is_some() || !with_cookie {
        return bearer.map(str::to_owned);
    }
    let cookies = headers.get_all(COOKIE).iter();
    cookies
        .filter_map(|text| text.to_str().ok())
        .flat_map(|text| text.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE_NAME)
        .map(|(_, token)| token.to_owned())
}

impl Access {
    /// Lets a request in, or not.
    async fn admit(&self, visit: &Visit) -> Result<Admitted, Box<Refused>> {
        let now = Instant::now();
        let place = |who: &str| self.limits.admit(who, visit.call.span, now);
        if visit.call.need == Need::Free {
            // The page's files and health checks take up nothing; who logs in may only guess.
            let small = visit.call.span == Span::Short && !visit.call.changes;
            if !self.enabled || small {
                return Ok((None, None));
            }
            let permit = place(&visit.host()).map_err(|error| Refused::new(None, error))?;
            return Ok((None, Some(permit)));
        }
        let caller = match self.identify(visit).await {
            Ok(caller) => caller,
            Err(error) => {
                // Who only guesses is slowed down, so that the log is not filled.
                let slow = self.limits.admit(&visit.host(), Span::Short, now);
                return Err(Refused::new(None, slow.err().unwrap_or(error)));
            }
        };
        if !visit.call.allows(&caller) {
            let error = denied_role(visit, &caller);
            return Err(Refused::new(Some(caller), error));
        }
        // Workers must not be kept from their jobs: all of a pool come back at once after an election.
        if !self.enabled || caller.role == Role::Worker {
            return Ok((Some(caller), None));
        }
        let (who, times) = share(visit.identity(), &caller);
        match self.limits.admit_times(&who, times, visit.call.span, now) {
            Ok(permit) => Ok((Some(caller), Some(permit))),
            Err(error) => Err(Refused::new(Some(caller), error)),
        }
    }

    /// Who calls: by certificate, else by token.
    pub(super) async fn identify(&self, visit: &Visit) -> Result<Principal, ApiError> {
        if !self.enabled {
            return Ok(Principal::anonymous());
        }
        let connection = visit.caller.as_ref();
        if connection.is_some_and(|connection| connection.standing.is_void()) {
            return Err(guard::void());
        }
        let by_certificate = visit
            .identity()
            .map(|identity| certificates::principal(identity, self.certificates.as_ref()));
        match (&visit.token, by_certificate) {
            // A certificate that opens nothing does not stand in the way of a token that does.
            (Some(token), None) => self.authenticate_patiently(token).await,
            (Some(token), Some(caller)) if caller.role == Role::None => {
                self.authenticate_patiently(token).await
            }
            (_, Some(caller)) => Ok(caller),
            (None, None) => Err(unauthenticated(
                "NO_CREDENTIALS",
                "this coordinator asks who calls: give a token (authorization: Bearer TOKEN; with \
                 the espalier command --token-file FILE) or a certificate of this cluster",
            )),
        }
    }

    /// Refuses a request: counted, written down, answered.
    fn refuse(&self, visit: &Visit, refused: Refused) -> Response<Body> {
        let Refused { caller, error } = refused;
        if let Some(counted) = refusal::counted(&error) {
            self.metrics.refused(counted);
        }
        tracing::debug!(
            call = visit.path,
            address = visit.address(),
            "refused: {error}"
        );
        // Limits are there to keep things small: the log, too.
        if error.kind != ErrorKind::ResourceExhausted {
            self.note(visit, caller.as_ref(), Some(&error), error.kind.as_str());
        }
        refusal::answer(error, visit.is_grpc)
    }

    /// Counts and writes down what a handler answered.
    fn answered<B>(&self, visit: &Visit, caller: Option<&Principal>, response: &Response<B>) {
        let status = response.extensions().get::<Status>();
        let error = status
            .filter(|status| status.code() != tonic::Code::Ok)
            .map(ApiError::from);
        let refused = error.as_ref().and_then(refusal::counted);
        if let Some(counted) = refused {
            self.metrics.refused(counted);
        }
        let reads = self.audit.as_ref().is_some_and(|audit| audit.reads);
        let free = visit.call.need == Need::Free;
        let told = !free && (visit.call.changes || reads);
        // What everybody may ask for as often as they like is not written down: it could fill the disk.
        let limited = !free || visit.call.changes;
        if told || (limited && refused.is_some()) {
            let http = response.status();
            let code = match &error {
                Some(error) => error.kind.as_str(),
                None if http.is_success() => "OK",
                None => http.as_str(),
            };
            self.note(visit, caller, error.as_ref(), code);
        }
    }

    pub(super) fn note(
        &self,
        visit: &Visit,
        caller: Option<&Principal>,
        error: Option<&ApiError>,
        code: &str,
    ) {
        if let Some(audit) = &self.audit {
            audit.write(&Entry {
                principal: caller,
                address: &visit.address(),
                call: &visit.path,
                object: visit.object.get().unwrap_or_default(),
                code,
                reason: error.map_or("", |error| error.reason.as_str()),
            });
        }
    }
}

/// Whose limits count where somebody is known, and how many times everybody's they are.
fn share(identity: Option<&Identity>, caller: &Principal) -> (String, u32) {
    let operates = identity.is_some_and(|identity| identity.kind == Kind::Operator);
    // Who shows a token besides may be known by that.
    if operates && caller.method == Method::Certificate {
        return (format!("operator {}", caller.name), OPERATOR);
    }
    (format!("{} {}", caller.method.as_str(), caller.name), 1)
}

/// The error of a caller whose role is too small.
pub(super) fn denied_role(visit: &Visit, caller: &Principal) -> ApiError {
    let message = format!(
        "{caller} may not call {}; {} may",
        visit.path,
        visit.call.who_may()
    );
    denied("ROLE_DENIED", message).with("role", caller.role)
}

/// An answer that holds its caller's place until it has been sent, and ends when the caller may call no
/// more.
struct Held {
    body: Body,
    end: Option<Pin<Box<dyn Future<Output = ApiError> + Send>>>,
    is_grpc: bool,
    _permit: Option<Permit>,
    _guard: Option<Guard>,
}

impl Held {
    fn new(body: Body, permit: Option<Permit>, guard: Option<Guard>, is_grpc: bool) -> Self {
        let end = guard.as_ref().map(|guard| {
            let mut cut = guard.cut.clone();
            let end: Pin<Box<dyn Future<Output = ApiError> + Send>> =
                Box::pin(async move { cut.comes().await });
            end
        });
        Self {
            body,
            end,
            is_grpc,
            _permit: permit,
            _guard: guard,
        }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        // First: what waits to be sent is not the caller's any more.
        if let Some(end) = &mut this.end
            && let Poll::Ready(error) = end.as_mut().poll(cx)
        {
            this.end = None;
            this.body = Body::empty();
            return Poll::Ready(Some(Ok(guard::last(error, this.is_grpc))));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    // Promise: an operator has limits of its own, whatever others are called, and only its certificate makes one.
    #[test]
    fn operators_have_limits_of_their_own() {
        let known = |kind| {
            let identity = Identity::new(kind, "a").unwrap();
            let caller = certificates::principal(&identity, None);
            share(Some(&identity), &caller)
        };
        assert_eq!(known(Kind::Operator), ("operator a".to_owned(), OPERATOR));
        assert_eq!(known(Kind::Admin), ("certificate a".to_owned(), 1));
        let token = Principal {
            method: Method::Token,
            ..Principal::anonymous()
        };
        let identity = Identity::new(Kind::Operator, "a");
        let by_token = ("token anonymous".to_owned(), 1);
        assert_eq!(share(identity.as_ref(), &token), by_token);
    }

    // Promise: a token comes in its header; in the page's cookie only where the page's calls go, so that
    // another site can't borrow it.
    #[test]
    fn tokens_are_found_where_they_may_be() {
        let headers = |name: http::HeaderName, text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(text));
            headers
        };
        let given = |text| token(&headers(AUTHORIZATION, text), false);
        assert_eq!(given("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(given("bearer  abc ").as_deref(), Some("abc"));
        assert_eq!(given("Basic abc"), None);
        assert_eq!(given("abc"), None);
        assert!(has_bearer(&headers(AUTHORIZATION, "Bearer abc")));
        assert!(!has_bearer(&headers(AUTHORIZATION, "Basic abc")));
        let cookie = headers(COOKIE, "a=b; espalier_session=abc; c");
        assert_eq!(token(&cookie, true).as_deref(), Some("abc"));
        assert_eq!(token(&cookie, false), None);
        assert_eq!(token(&headers(COOKIE, "xespalier_session=abc"), true), None);
    }
}
