//! Images and sounds as inputs: what a cell holds of them, and their numbers, stored compactly.
//!
//! A backbone of images takes [channels, height, width]; one of sounds the same, with one channel,
//! mel bins as height and frames as width. Which of them a directory is for, its
//! `preprocessor_config.json` says.

use super::audio::AudioReader;
use super::cell::shortened;
use super::fit::Cut;
use super::image::ImageReader;
use super::inputs::{flatten, mismatch};
use super::{Cell, Error, Place, Problem};
use crate::allow::Roots;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// Name of the file that says how inputs become numbers.
const CONFIG: &str = "preprocessor_config.json";

/// How cells become the numbers that a backbone takes. Threads may share it.
#[derive(Debug)]
pub struct MediaReader {
    shape: [usize; 3],
    kind: Kind,
    /// Frames that the backbone makes of an input.
    frames: Option<usize>,
    /// Where files may lie.
    roots: Roots,
}

#[derive(Debug)]
enum Kind {
    Image(ImageReader),
    Audio(AudioReader),
}

/// One input, decoded.
#[derive(Debug)]
enum Values {
    /// 0 to 255, (channels, height, width); what rescales and normalises them is the reader's.
    Pixels(Vec<u8>),
    /// As the backbone takes them.
    Numbers(Vec<f32>),
}

/// What a cell holds of an image or a sound.
pub(super) enum Held {
    Bytes(Vec<u8>),
    List(Cell),
    Wave { samples: Cell, rate: u32 },
}

impl MediaReader {
    /// Reads `preprocessor_config.json` of the directory `dir`, for a backbone that takes `shape`
    /// (channels, height, width). Without that file, pixels are rescaled to 0..1 and nothing more; a model
    /// of sounds alone must have it.
    ///
    /// # Errors
    /// The file is unreadable, or says what can't be done or doesn't fit `shape`.
    pub fn load(dir: &Path, shape: [usize; 3]) -> Result<Self, Error> {
        let file = dir.join(CONFIG);
        let needs_sounds = reads_sounds(dir);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                if needs_sounds {
                    let message = no_spectrograms("no such file", shape);
                    return Err(Error::Preprocessor { file, message });
                }
                return Ok(Self::plain(shape));
            }
            Err(cause) => return Err(Error::Read { file, cause }),
        };
        let read = || {
            let fields: Map<String, Value> =
                serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
            let kind = if fields.contains_key("sampling_rate") {
                Kind::Audio(AudioReader::new(&fields, shape)?)
            } else if needs_sounds {
                return Err(no_spectrograms("field sampling_rate is missing", shape));
            } else {
                Kind::Image(ImageReader::new(&fields, shape)?)
            };
            Ok(Self {
                shape,
                kind,
                frames: None,
                roots: Roots::default(),
            })
        };
        read().map_err(|message| Error::Preprocessor { file, message })
    }

    /// Images whose pixels are rescaled to 0..1, of `shape` (channels, height, width).
    #[must_use]
    pub fn plain(shape: [usize; 3]) -> Self {
        let kind = Kind::Image(ImageReader::plain(shape));
        Self {
            shape,
            kind,
            frames: None,
            roots: Roots::default(),
        }
    }

    /// Reads files that lie in `roots` alone.
    #[must_use]
    pub fn within(self, roots: Roots) -> Self {
        Self { roots, ..self }
    }

    /// Says how many frames the backbone makes of an input, if any.
    #[must_use]
    pub fn with_frames(self, frames: Option<usize>) -> Self {
        Self { frames, ..self }
    }

    /// Frames that the backbone makes of an input, if any.
    #[must_use]
    pub fn frames(&self) -> Option<usize> {
        self.frames
    }

    /// Channels, height and width of an input.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// What becomes of a picture of `from` (height, width), as of the image that it belongs to. The error says what
    /// is wrong with it.
    pub(super) fn cut(&self, from: [usize; 2]) -> Result<Cut, String> {
        let [_, height, width] = self.shape;
        match &self.kind {
            Kind::Image(reader) => reader.cut(from),
            Kind::Audio(_) => Ok(Cut::all([height, width])),
        }
    }

    /// Whether inputs are sounds, not images.
    #[must_use]
    pub fn is_audio(&self) -> bool {
        matches!(self.kind, Kind::Audio(_))
    }

    /// The column of the input where the task names none.
    #[must_use]
    pub fn default_column(&self) -> &'static str {
        match self.kind {
            Kind::Image(_) => "image",
            Kind::Audio(_) => "audio",
        }
    }

    /// What a column of inputs may hold, in words.
    fn expected(&self) -> &'static str {
        match self.kind {
            Kind::Image(_) => {
                "an image: the bytes of a PNG or JPEG, the path of such a file (from the data file's folder), or a list of numbers"
            }
            Kind::Audio(_) => {
                "a sound: the bytes of a WAV or FLAC, the path of such a file (from the data file's folder), or an `array` with its `sampling_rate`"
            }
        }
    }

    /// The numbers of the file `path`, and whether a part was cut off: for a model's answers.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn file(&self, path: &str) -> Result<(Vec<f32>, bool), Problem> {
        let cell = Cell::Text(path.to_owned());
        let (values, cut) = self.decode(cell, self.default_column(), Path::new(""))?;
        Ok((self.finished(&values), cut))
    }

    /// A cell's values, and whether a part was cut off.
    fn decode(&self, cell: Cell, column: &str, folder: &Path) -> Result<(Values, bool), Problem> {
        let undecodable = |message: String| Problem::Undecodable {
            column: column.to_owned(),
            message,
        };
        match (self.held(cell, column, folder)?, &self.kind) {
            (Held::List(list), _) => {
                let expected = self.shape.iter().product();
                let mut numbers = Vec::with_capacity(expected);
                flatten(&list, column, &mut numbers)?;
                let (column, found) = (column.to_owned(), numbers.len());
                if found != expected {
                    return Err(Problem::ImageSize {
                        column,
                        expected,
                        found,
                    });
                }
                Ok((Values::Numbers(numbers), false))
            }
            (Held::Bytes(bytes), Kind::Image(reader)) => {
                let pixels = reader.decode(&bytes).map_err(undecodable)?;
                Ok((Values::Pixels(pixels), false))
            }
            (Held::Bytes(bytes), Kind::Audio(reader)) => {
                let (wave, rate) = AudioReader::decode(&bytes).map_err(undecodable)?;
                self.features(reader, &wave, rate, column)
            }
            (Held::Wave { samples, rate }, Kind::Audio(reader)) => {
                let mut wave = Vec::new();
                flatten(&samples, column, &mut wave)?;
                self.features(reader, &wave, rate, column)
            }
            (Held::Wave { .. }, Kind::Image(_)) => Err(Problem::Type {
                column: column.to_owned(),
                expected: self.expected().to_owned(),
                found: "the samples of a sound".to_owned(),
            }),
        }
    }

    fn features(
        &self,
        reader: &AudioReader,
        wave: &[f32],
        rate: u32,
        column: &str,
    ) -> Result<(Values, bool), Problem> {
        let column = column.to_owned();
        if rate != reader.rate() {
            return Err(Problem::SampleRate {
                column,
                found: rate,
                expected: reader.rate(),
            });
        }
        if wave.is_empty() {
            let message = "the sound holds no samples".to_owned();
            return Err(Problem::Undecodable { column, message });
        }
        let (numbers, cut) = reader.features(wave);
        Ok((Values::Numbers(numbers), cut))
    }

    /// What a cell holds; files are read.
    pub(super) fn held(&self, cell: Cell, column: &str, folder: &Path) -> Result<Held, Problem> {
        match cell.unpacked() {
            list @ Cell::List(_) => Ok(Held::List(list)),
            Cell::Bytes(bytes) => Ok(Held::Bytes(bytes)),
            // Bytes that happen to be UTF-8, such as those of silence; no path holds a zero.
            Cell::Text(text) if text.contains('\0') => Ok(Held::Bytes(text.into_bytes())),
            Cell::Text(path) | Cell::Raw(path) if !path.is_empty() => {
                let file = folder.join(&path);
                let file = self.roots.find(&file);
                let file = file.map_err(|why| Problem::Outside(column.to_owned(), why))?;
                let bytes = fs::read(&file).map_err(|cause| Problem::MediaFile {
                    column: column.to_owned(),
                    path: if path.len() > 200 {
                        shortened(&path)
                    } else {
                        file.display().to_string()
                    },
                    message: format!("{cause}; expected {}", self.expected()),
                })?;
                Ok(Held::Bytes(bytes))
            }
            Cell::Struct(fields) => self.field(fields, column, folder),
            other => Err(mismatch(column, self.expected(), &other)),
        }
    }

    /// The part of a struct that counts, after Hugging Face's `Image` and `Audio` features.
    fn field(
        &self,
        fields: Vec<(String, Cell)>,
        column: &str,
        folder: &Path,
    ) -> Result<Held, Problem> {
        let whole = Cell::Struct(fields);
        let described = mismatch(column, self.expected(), &whole);
        let Cell::Struct(mut fields) = whole else {
            return Err(described);
        };
        let mut take = |name: &str| {
            let found = fields.iter_mut().find(|(field, _)| field == name);
            let cell = found.map_or(Cell::Null, |(_, cell)| std::mem::replace(cell, Cell::Null));
            (cell != Cell::Null).then_some(cell)
        };
        match (
            take("bytes"),
            take("path"),
            take("array"),
            take("sampling_rate"),
        ) {
            (Some(Cell::Bytes(bytes)), ..) => Ok(Held::Bytes(bytes)),
            (Some(Cell::Text(bytes)), ..) => Ok(Held::Bytes(bytes.into_bytes())),
            (None, _, Some(samples @ Cell::List(_)), Some(Cell::Int(rate))) => Ok(Held::Wave {
                samples,
                rate: u32::try_from(rate).unwrap_or(0),
            }),
            (None, Some(path @ Cell::Text(_)), ..) => self.held(path, column, folder),
            _ => Err(described),
        }
    }

    /// Values as the backbone takes them.
    fn finished(&self, values: &Values) -> Vec<f32> {
        match values {
            Values::Numbers(numbers) => numbers.clone(),
            Values::Pixels(pixels) => self.rescaled(pixels),
        }
    }

    fn rescaled(&self, pixels: &[u8]) -> Vec<f32> {
        match &self.kind {
            Kind::Image(reader) => reader.rescaled(pixels),
            Kind::Audio(_) => Vec::new(),
        }
    }
}

/// Images or spectrograms of one shape in one buffer: a byte a number for images that were decoded,
/// four for lists of numbers and for spectrograms.
#[derive(Debug)]
pub struct Images {
    reader: Arc<MediaReader>,
    /// None before the first row, whose kind is that of all.
    values: Option<Values>,
    rows: usize,
    cut: u64,
    /// A sound that would have to be cut is none.
    whole: bool,
}

impl Images {
    pub(super) fn new(reader: Arc<MediaReader>) -> Self {
        Self {
            reader,
            values: None,
            rows: 0,
            cut: 0,
            whole: false,
        }
    }

    /// Refuses sounds of which something would be cut off, if `whole` says so.
    pub(super) fn whole(self, whole: bool) -> Self {
        Self { whole, ..self }
    }

    pub(super) fn push(&mut self, cell: Cell, column: &str, place: &Place) -> Result<(), Error> {
        let folder = place.file.parent().unwrap_or(Path::new(""));
        let decoded = self.reader.decode(cell, column, folder);
        let (values, cut) = decoded.map_err(|problem| place.error(problem))?;
        if cut && self.whole {
            let frames = self.reader.shape[2];
            let message = format!(
                "the sound has more than the {frames} frames that the backbone takes, and data.too_long is \
                 `error`"
            );
            let column = column.to_owned();
            return Err(place.error(Problem::Undecodable { column, message }));
        }
        match (&mut self.values, values) {
            (None, values) => self.values = Some(values),
            (Some(Values::Pixels(all)), Values::Pixels(new)) => all.extend(new),
            (Some(Values::Numbers(all)), Values::Numbers(new)) => all.extend(new),
            (Some(before), new) => {
                return Err(place.error(Problem::Type {
                    column: column.to_owned(),
                    expected: format!("{} as in the rows before", before.describe()),
                    found: new.describe().to_owned(),
                }));
            }
        }
        self.rows += 1;
        self.cut += u64::from(cut);
        Ok(())
    }

    /// Frees what reading reserved too much.
    pub(super) fn finish(&mut self) {
        match &mut self.values {
            Some(Values::Pixels(all)) => all.shrink_to_fit(),
            Some(Values::Numbers(all)) => all.shrink_to_fit(),
            None => {}
        }
    }

    /// Inputs held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no input.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// How many sounds were longer than the backbone takes, and were cut.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// The numbers of input `index`, (channels, height, width); empty beyond the last.
    #[must_use]
    pub fn numbers(&self, index: usize) -> Arc<[f32]> {
        let size: usize = self.reader.shape.iter().product();
        let start = index.saturating_mul(size);
        let range = start..start.saturating_add(size);
        match &self.values {
            Some(Values::Numbers(all)) => all.get(range).unwrap_or_default().into(),
            Some(Values::Pixels(all)) => self
                .reader
                .rescaled(all.get(range).unwrap_or_default())
                .into(),
            None => Arc::new([]),
        }
    }

    /// What black is, for each channel, in the numbers that are given out.
    #[must_use]
    pub(super) fn black(&self) -> Vec<f32> {
        let channels = self.reader.shape[0];
        match (&self.values, &self.reader.kind) {
            (Some(Values::Pixels(_)), Kind::Image(reader)) => reader.black(),
            _ => vec![0.0; channels],
        }
    }
}

impl Values {
    fn describe(&self) -> &'static str {
        match self {
            Values::Pixels(_) => "an encoded image",
            Values::Numbers(_) => "numbers",
        }
    }
}

/// Whether the model of a directory reads sounds and nothing else. What is wrong with its `config.json`, who builds
/// the model says.
fn reads_sounds(dir: &Path) -> bool {
    let config = fs::read(dir.join("config.json")).ok();
    let config = config.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let config = config.unwrap_or_default();
    match config["model_type"].as_str() {
        Some("audio-spectrogram-transformer") => true,
        Some("espalier-torchscript") => config["modality"] == "audio",
        _ => false,
    }
}

/// Why a model of sounds cannot read any, and what would let it.
fn no_spectrograms(why: &str, [_, bins, frames]: [usize; 3]) -> String {
    format!(
        "{why}, but this model reads sounds; expected how they become spectrograms, such as \
         {{\"feature_extractor_type\": \"EspalierLogMel\", \"sampling_rate\": 16000, \
         \"num_mel_bins\": {bins}, \"n_fft\": 1024, \"hop_length\": 160, \"max_length\": {frames}}}"
    )
}

/// Fields of `preprocessor_config.json` that someone here knows; others don't matter.
pub(super) fn fields<T: DeserializeOwned>(fields: &Map<String, Value>) -> Result<T, String> {
    serde_path_to_error::deserialize(Value::Object(fields.clone()))
        .map_err(|error| format!("field {}: {}", error.path(), error.inner()))
}

#[cfg(test)]
mod tests;
