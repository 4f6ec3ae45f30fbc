//! How answers look: data to standard output as table, JSON or YAML; the rest to standard error.

pub(crate) mod heat;
mod table;
pub(crate) mod text;

pub(crate) use table::{Cell, Table};

use crate::error::{Error, Result};
use clap::ValueEnum;
use espalier_proto::Credentials;
use espalier_tls::ClientFlags;
use owo_colors::{OwoColorize, Style};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal, Write};

/// Format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON value.
    Json,
    /// One YAML document.
    Yaml,
}

/// What every verb needs: flags, and where to write.
pub(crate) struct Context {
    /// Address given by flag or environment.
    pub(crate) server: Option<String>,
    /// Certificates given likewise.
    pub(crate) tls: ClientFlags,
    /// What it is proved with who asks.
    pub(crate) credentials: Credentials,
    /// Format of the answer.
    pub(crate) format: Format,
    /// Standard output: data.
    pub(crate) stdout: Screen,
    /// Standard error: everything else.
    pub(crate) stderr: Screen,
}

impl Context {
    /// Decides on colours: only on a terminal, and never against the user's wish.
    pub(crate) fn new(server: Option<String>, format: Format, no_color: bool) -> Self {
        let unwanted = no_color
            || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let stdout = std::io::stdout().is_terminal();
        let stderr = std::io::stderr().is_terminal();
        Self {
            server,
            tls: ClientFlags::default(),
            credentials: Credentials::default(),
            format,
            stdout: Screen {
                terminal: stdout,
                color: stdout && !unwanted,
            },
            stderr: Screen {
                terminal: stderr,
                color: stderr && !unwanted,
            },
        }
    }

    /// Writes text to standard output and a line end if it has none.
    ///
    /// # Errors
    /// Standard output can't be written. A reader that went away (`| head`) is none.
    pub(crate) fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let end = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        match write!(out, "{text}{end}").and_then(|()| out.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
            Err(error) => Err(Error::failure(format!("can't write the answer: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    /// Writes an answer in the chosen format.
    ///
    /// # Errors
    /// As [`Context::print`].
    pub(crate) fn answer(
        &self,
        value: &impl Serialize,
        table: impl FnOnce(&Screen) -> String,
    ) -> Result<()> {
        let text = match self.format {
            Format::Table => table(&self.stdout),
            Format::Json => serde_json::to_string_pretty(value)
                .map_err(|error| Error::failure(format!("can't write JSON: {error}")))?,
            Format::Yaml => yaml(value)?,
        };
        self.print(&text)
    }

    /// Columns of a page on standard output. A file or a program gets lines as long as they are.
    pub(crate) fn width(&self) -> usize {
        let given = std::env::var("COLUMNS").ok();
        let given = given.and_then(|columns| columns.parse().ok());
        let found = || {
            let size = terminal_size::terminal_size_of(std::io::stdout());
            size.map(|(width, _)| usize::from(width.0))
        };
        match self.stdout.terminal {
            true => found().or(given).filter(|width| *width > 0).unwrap_or(80),
            false => given.unwrap_or(usize::MAX),
        }
    }

    /// Tells the person at the terminal something that is not data.
    pub(crate) fn note(&self, text: &str) {
        // Nothing can be done if standard error is gone.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Writes one JSON value in one line, whatever the format: for streams.
    ///
    /// # Errors
    /// As [`Context::print`].
    pub(crate) fn line(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|error| Error::failure(format!("can't write JSON: {error}")))?;
        self.print(&text)
    }

    /// Warns.
    pub(crate) fn warn(&self, text: &str) {
        let head = self.stderr.paint("warning:", Style::new().yellow().bold());
        self.note(&format!("{head} {}", text::plain(text)));
    }
}

/// A value as one YAML document.
///
/// # Errors
/// The value can't be written as YAML.
pub(crate) fn yaml(value: &impl Serialize) -> Result<String> {
    serde_saphyr::to_string(value)
        .map_err(|error| Error::failure(format!("can't write YAML: {error}")))
}

/// One of the two outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// Whether a person looks at it.
    pub(crate) terminal: bool,
    /// Whether colours are wanted.
    pub(crate) color: bool,
}

impl Screen {
    /// Text in a style, if colours are wanted.
    pub(crate) fn paint(&self, text: &str, style: Style) -> String {
        if self.color {
            text.style(style).to_string()
        } else {
            text.to_owned()
        }
    }

    /// Writes an error to standard error.
    pub(crate) fn error(&self, error: &Error) {
        let head = self.paint("error:", Style::new().red().bold());
        // What others wrote, such as names and logs, may be in it.
        let error = text::plain(&error.to_string());
        let _ = writeln!(std::io::stderr(), "{head} {error}");
    }
}
