//! `espalier certs`: a CA and certificates for those who have nothing else that makes them.

use crate::Outcome;
use crate::error::{Code, Error, Result};
use crate::output::{Cell, Context, Table};
use clap::Subcommand;
use espalier_tls::{Ca, Details, Issued, Kind, TRUST_DOMAIN, TlsError, inspect};
use serde::Serialize;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  espalier certs ca                                     a CA in certs/ca
  espalier certs coordinator a --host a.lan,10.0.0.1    certs/coordinator-a
  espalier certs worker gpu-1                           for the worker of this name alone
  espalier certs worker gpu --shared                    for all workers named gpu-...
  espalier certs admin ada                              for a person who may do everything
  espalier certs user bob                               for others: --certificate-roles says what they may do
  espalier certs server --host etcd-1,10.0.0.2          for an etcd
  espalier certs show certs/worker-gpu-1/tls.crt        what a certificate holds

Each directory gets ca.crt, tls.crt and tls.key. Run again, a verb replaces tls.crt and tls.key, and
running programs take them up.";

/// Make and show certificates
///
/// A certificate says who its holder is in a URI, spiffe://DOMAIN/KIND/NAME. Keep the CA's directory
/// where only you can read it: who has its key can be anybody.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a CA
    Ca {
        /// Directory that gets it; must not hold one
        #[arg(long, value_name = "DIR", default_value = DEFAULT_CA)]
        dir: PathBuf,
        /// Days that it is valid
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Domain of identities
        #[arg(long, value_name = "DOMAIN", default_value = TRUST_DOMAIN)]
        trust_domain: String,
    },
    /// Make a certificate for a coordinator
    Coordinator {
        /// Its name
        name: String,
        #[command(flatten)]
        hosts: Hosts,
        #[command(flatten)]
        how: How,
    },
    /// Make a certificate for a server that is nobody in the cluster, such as an etcd
    Server {
        #[command(flatten)]
        hosts: Hosts,
        #[command(flatten)]
        how: How,
    },
    /// Make a certificate for a worker
    Worker {
        /// Name of the worker
        name: String,
        /// For all workers whose name begins with NAME and a `-`
        #[arg(long)]
        shared: bool,
        #[command(flatten)]
        how: How,
    },
    /// Make a certificate for a person or a program that may do everything but to work
    Admin {
        /// Its name
        name: String,
        #[command(flatten)]
        how: How,
    },
    /// Make a certificate for a person or a program; the coordinator's --certificate-roles says what it
    /// may do
    User {
        /// Its name
        name: String,
        #[command(flatten)]
        how: How,
    },
    /// Make a certificate for the operator of Kubernetes
    Operator {
        /// Its name
        #[arg(default_value = "espalier")]
        name: String,
        #[command(flatten)]
        how: How,
    },
    /// Show what certificates hold
    Show {
        /// Files in PEM
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

const DEFAULT_CA: &str = "certs/ca";

#[derive(Debug, clap::Args)]
struct Hosts {
    /// DNS names and IP addresses that clients call it by, comma-separated; may be repeated
    #[arg(
        long = "host",
        value_name = "HOST",
        required = true,
        value_delimiter = ','
    )]
    hosts: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Directory of the CA
    #[arg(long, value_name = "DIR", default_value = DEFAULT_CA)]
    ca: PathBuf,
    /// Directory that gets the certificate; default: certs/KIND-NAME
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Days that it is valid
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Domain of identities
    #[arg(long, value_name = "DOMAIN", default_value = TRUST_DOMAIN)]
    trust_domain: String,
}

/// What was made.
#[derive(Serialize)]
struct Made {
    directory: String,
    files: [&'static str; 3],
    /// When the certificate ends.
    until: String,
}

pub(crate) fn run(args: &Args, context: &Context) -> Outcome {
    match &args.what {
        What::Ca {
            dir,
            days,
            trust_domain,
        } => {
            let ca = Ca::create(trust_domain, *days).map_err(failed)?;
            ca.save(dir).map_err(failed)?;
            report(dir, context)?;
        }
        What::Coordinator { name, hosts, how } => {
            let hosts = hosts.list();
            issue(("coordinator", name), how, context, |ca| {
                ca.issue(Kind::Coordinator, name, &hosts, how.days)
            })?;
        }
        What::Server { hosts, how } => {
            let hosts = hosts.list();
            let name = hosts.first().copied().unwrap_or_default();
            issue(("server", name), how, context, |ca| {
                ca.issue_server(&hosts, how.days)
            })?;
        }
        What::Worker { name, shared, how } => {
            issue(("worker", name), how, context, |ca| match shared {
                true => ca.issue_shared(name, how.days),
                false => ca.issue(Kind::Worker, name, &[], how.days),
            })?;
        }
        What::Admin { name, how } => {
            issue(("admin", name), how, context, |ca| {
                ca.issue(Kind::Admin, name, &[], how.days)
            })?;
        }
        What::User { name, how } => {
            issue(("user", name), how, context, |ca| {
                ca.issue(Kind::User, name, &[], how.days)
            })?;
        }
        What::Operator { name, how } => {
            issue(("operator", name), how, context, |ca| {
                ca.issue(Kind::Operator, name, &[], how.days)
            })?;
        }
        What::Show { files } => show(files, context)?,
    }
    Ok(Code::Ok)
}

impl Hosts {
    fn list(&self) -> Vec<&str> {
        self.hosts.iter().map(|host| host.trim()).collect()
    }
}

fn issue(
    (kind, name): (&str, &str),
    how: &How,
    context: &Context,
    make: impl FnOnce(&Ca) -> Result<Issued, TlsError>,
) -> Result<()> {
    let ca = Ca::load(&how.ca).map_err(|error| {
        let missing = matches!(&error, TlsError::File { source, .. }
            if source.kind() == std::io::ErrorKind::NotFound);
        let error = failed(error);
        match missing {
            true => error.hint("`espalier certs ca` makes a CA; --ca names its directory"),
            false => error,
        }
    })?;
    let ca = ca.trust_domain(&how.trust_domain).map_err(failed)?;
    let issued = make(&ca).map_err(failed)?;
    let named = || Path::new("certs").join(format!("{kind}-{name}"));
    let directory = how.dir.clone().unwrap_or_else(named);
    issued.save(&directory).map_err(failed)?;
    report(&directory, context)
}

fn report(directory: &Path, context: &Context) -> Result<()> {
    let found = inspect(&directory.join("tls.crt")).map_err(failed)?;
    let made = Made {
        directory: directory.display().to_string(),
        files: ["ca.crt", "tls.crt", "tls.key"],
        until: found.first().map(|it| moment(it.until)).unwrap_or_default(),
    };
    context.answer(&made, |_| {
        format!(
            "wrote ca.crt, tls.crt and tls.key into {}, valid until {}",
            made.directory, made.until
        )
    })
}

/// One certificate of a file.
#[derive(Serialize)]
struct Shown {
    file: String,
    subject: String,
    issuer: String,
    identities: Vec<String>,
    hosts: Vec<String>,
    authority: bool,
    from: String,
    until: String,
    serial: String,
}

fn show(files: &[PathBuf], context: &Context) -> Result<()> {
    let mut all = Vec::new();
    for file in files {
        for details in inspect(file).map_err(failed)? {
            all.push(shown(file, details));
        }
    }
    context.answer(&all, |screen| {
        let mut table = Table::new(["FILE", "IDENTITY", "HOSTS", "FROM", "UNTIL", "ISSUER"]);
        for one in &all {
            let identity = match one.identities.is_empty() {
                true => one.subject.clone(),
                false => one.identities.join(","),
            };
            let cells = [
                one.file.clone(),
                identity,
                one.hosts.join(","),
                one.from.clone(),
                one.until.clone(),
                one.issuer.clone(),
            ];
            table.row(cells.map(Cell::from));
        }
        table.render(screen, 0)
    })
}

fn shown(file: &Path, details: Details) -> Shown {
    Shown {
        file: file.display().to_string(),
        subject: details.subject,
        issuer: details.issuer,
        identities: details.uris,
        hosts: details.hosts,
        authority: details.authority,
        from: moment(details.from),
        until: moment(details.until),
        serial: details.serial,
    }
}

fn moment(seconds: i64) -> String {
    let millis = u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    espalier_proto::time::timestamp(millis).to_string()
}

fn failed(error: TlsError) -> Error {
    let code = match &error {
        TlsError::Exists { .. } => Code::Conflict,
        TlsError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Code::NotFound
        }
        TlsError::Name { .. } => Code::Usage,
        _ => Code::Failure,
    };
    Error::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;
    use clap::Parser;
    use std::os::unix::fs::PermissionsExt;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn run_line(line: &[&str]) -> Outcome {
        let line = Line::try_parse_from(["certs"].iter().chain(line)).expect("a command line");
        run(&line.args, &Context::new(None, Format::Json, true))
    }

    #[test]
    fn from_a_ca_to_a_workers_certificate() {
        // Every file is there, only the owner reads keys, a CA is never overwritten, a holder's
        // certificate is.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (ca, worker) = (at("ca"), at("worker"));
        let error = run_line(&["worker", "w", "--ca", &ca, "--dir", &worker]).expect_err("no CA");
        assert_eq!(error.code(), Code::NotFound);
        assert!(error.to_string().contains("espalier certs ca"), "{error}");
        run_line(&["ca", "--dir", &ca]).expect("made");
        let error = run_line(&["ca", "--dir", &ca]).expect_err("there is one");
        assert_eq!(error.code(), Code::Conflict);
        for _ in 0..2 {
            run_line(&["worker", "w", "--ca", &ca, "--dir", &worker]).expect("made");
        }
        let key = folder.path().join("worker/tls.key");
        let mode = std::fs::metadata(key).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let cert = folder.path().join("worker/tls.crt");
        let found = inspect(&cert).expect("a certificate");
        assert_eq!(found[0].uris, ["spiffe://espalier/worker/w"]);
        let admin = at("admin");
        run_line(&["admin", "root", "--ca", &ca, "--dir", &admin]).expect("made");
        let found = inspect(&folder.path().join("admin/tls.crt")).expect("a certificate");
        assert_eq!(found[0].uris, ["spiffe://espalier/admin/root"]);
        let error = run_line(&["user", "a/b", "--ca", &ca]).expect_err("no name");
        assert_eq!(error.code(), Code::Usage);
    }
}
