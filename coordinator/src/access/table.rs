//! Which role a path needs, how long its calls last, what is written down of them.

use super::limits::Span;
use super::{Method, Principal, Role};
use http::Method as Verb;

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: it tells nothing and changes nothing, or asks for itself who calls.
    Free,
    /// To be known.
    Known,
    /// A role of people, at least this one.
    Least(Role),
    /// To see the jobs of all namespaces.
    AllNamespaces,
    /// To be a worker.
    Worker,
}

/// What is known of a call by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) need: Need,
    pub(super) span: Span,
    /// Whether it changes anything.
    pub(super) changes: bool,
}

const VIEWER: Need = Need::Least(Role::Viewer);
const SUBMITTER: Need = Need::Least(Role::Submitter);
const ADMIN: Need = Need::Least(Role::Admin);

/// Service, method, need, span, whether it changes anything.
const TABLE: [(&str, &str, Need, Span, bool); 19] = [
    ("JobService", "CreateJob", SUBMITTER, Span::Short, true),
    ("JobService", "GetJob", VIEWER, Span::Short, false),
    ("JobService", "ListJobs", VIEWER, Span::Short, false),
    ("JobService", "WatchJob", VIEWER, Span::Watch, false),
    ("JobService", "CancelJob", SUBMITTER, Span::Short, true),
    ("JobService", "PauseJob", SUBMITTER, Span::Short, true),
    ("JobService", "ResumeJob", SUBMITTER, Span::Short, true),
    ("JobService", "DeleteJob", SUBMITTER, Span::Short, true),
    ("JobService", "TailJobLogs", VIEWER, Span::Watch, false),
    ("JobService", "GetJobSeries", VIEWER, Span::Short, false),
    ("ClusterService", "GetCluster", VIEWER, Span::Short, false),
    ("ClusterService", "ListWorkers", VIEWER, Span::Short, false),
    ("ClusterService", "GetWorker", VIEWER, Span::Short, false),
    ("ClusterService", "WatchWorkers", VIEWER, Span::Watch, false),
    ("ClusterService", "DrainWorker", ADMIN, Span::Short, true),
    ("ClusterService", "UndrainWorker", ADMIN, Span::Short, true),
    ("ClusterService", "WhoAmI", Need::Known, Span::Short, false),
    ("WorkerService", "Connect", Need::Worker, Span::Watch, true),
    // Free, but counted by its address, and written down where it is refused: it may be guessed at.
    ("session", "", Need::Free, Span::Short, true),
];

impl Call {
    fn new(need: Need, span: Span, changes: bool) -> Self {
        Self {
            need,
            span,
            changes,
        }
    }

    /// What is known of a request.
    pub(super) fn of(verb: &Verb, path: &str) -> Self {
        // The gateway asks the same services, in this process and as the same caller.
        let name = path
            .strip_prefix("/espalier.v1.")
            .or_else(|| path.strip_prefix("/api/"));
        if let Some(name) = name {
            let (service, method) = name.split_once('/').unwrap_or((name, ""));
            let known = TABLE.iter().find(|row| (row.0, row.1) == (service, method));
            return match known {
                Some(&(_, _, need, span, changes)) => Self::new(need, span, changes),
                // A call that was forgotten here opens nothing.
                None => Self::new(ADMIN, Span::Short, true),
            };
        }
        let read = Self::new(Need::Free, Span::Short, false);
        match path {
            "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/List" => read,
            // Free, but held open: counted by its address.
            "/grpc.health.v1.Health/Watch" => Self::new(Need::Free, Span::Watch, false),
            "/metrics" => Self::new(Need::AllNamespaces, Span::Short, false),
            _ if path.starts_with("/grpc.reflection.") => {
                Self::new(Need::Known, Span::Watch, false)
            }
            // The page and its parts, which are the same for all.
            _ if verb == Verb::GET || verb == Verb::HEAD => read,
            _ => Self::new(Need::Known, Span::Short, true),
        }
    }

    /// Whether a caller may make it.
    pub(super) fn allows(self, caller: &Principal) -> bool {
        if caller.method == Method::None {
            return true;
        }
        match self.need {
            Need::Free | Need::Known => true,
            Need::Least(role) => caller.role.rank() >= role.rank(),
            Need::AllNamespaces => {
                caller.role.rank() >= Role::Viewer.rank() && caller.namespaces.is_empty()
            }
            Need::Worker => caller.role == Role::Worker,
        }
    }

    /// Who may, in words.
    pub(super) fn who_may(self) -> &'static str {
        match self.need {
            Need::Free | Need::Known => "everybody",
            Need::Least(Role::Viewer) => "viewers, submitters and admins",
            Need::Least(Role::Submitter) => "submitters and admins",
            Need::Least(_) => "admins",
            Need::AllNamespaces => "viewers, submitters and admins of all namespaces",
            Need::Worker => "workers",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use espalier_proto::FILE_DESCRIPTOR_SET;
    use prost_reflect::DescriptorPool;

    fn caller(role: Role, namespaces: &[&str]) -> Principal {
        Principal {
            name: "someone".to_owned(),
            role,
            namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
            method: Method::Token,
        }
    }

    // Promise: every call of the API was thought of, and no row is of a call that does not exist.
    #[test]
    fn every_call_has_a_row() {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
        let mut known = 1;
        for service in pool.services() {
            for method in service.methods() {
                let row = TABLE
                    .iter()
                    .find(|row| (row.0, row.1) == (service.name(), method.name()));
                let name = method.full_name();
                let row = row.unwrap_or_else(|| panic!("{name} has no row"));
                let watch = row.3 == Span::Watch;
                assert_eq!(method.is_server_streaming(), watch, "{name}");
                known += 1;
            }
        }
        assert_eq!(known, TABLE.len());
    }

    // Promise: each role may do what it says and no more; what nobody thought of is the admins'.
    #[test]
    fn roles() {
        let may = |role, verb: Verb, path: &str| Call::of(&verb, path).allows(&caller(role, &[]));
        for (path, least) in [
            ("/espalier.v1.JobService/GetJob", 1),
            ("/api/JobService/GetJob", 1),
            ("/metrics", 1),
            ("/espalier.v1.JobService/CreateJob", 2),
            ("/api/JobService/CancelJob", 2),
            ("/espalier.v1.ClusterService/DrainWorker", 3),
            ("/espalier.v1.JobService/Unheard", 3),
            ("/espalier.v1.Other/GetJob", 3),
            ("/api/JobService/GetJob/", 3),
            ("/api/", 3),
        ] {
            for role in [
                Role::None,
                Role::Viewer,
                Role::Submitter,
                Role::Admin,
                Role::Worker,
            ] {
                let expected = role.rank() >= least;
                assert_eq!(may(role, Verb::POST, path), expected, "{role} {path}");
            }
        }
        let connect = "/espalier.v1.WorkerService/Connect";
        assert!(may(Role::Worker, Verb::POST, connect));
        assert!(!may(Role::Admin, Verb::POST, connect));
        assert!(may(Role::None, Verb::GET, "/"));
        let limited = caller(Role::Viewer, &["a"]);
        assert!(!Call::of(&Verb::GET, "/metrics").allows(&limited));
        assert_eq!(Call::of(&Verb::GET, "/page.css").need, Need::Free);
        assert_eq!(Call::of(&Verb::POST, "/page.css").need, Need::Known);
        assert_eq!(Call::of(&Verb::DELETE, "/api/session").need, Need::Free);
    }
}
