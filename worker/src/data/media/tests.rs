use super::*;
use crate::data::{Input, Modality, TaskData, load};
use espalier_spec::job::TaskSpec;
use hound::{SampleFormat, WavSpec, WavWriter};
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};
use serde_json::json;
use std::io::Cursor;

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Four pixels: 0, 51, 102, 255.
fn grey() -> Vec<u8> {
    let image = GrayImage::from_raw(2, 2, vec![0, 51, 102, 255]).unwrap();
    encoded(image, ImageFormat::Png)
}

fn sound(rate: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let spec = WavSpec {
        channels: 1,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: SampleFormat::Int,
    };
    let mut writer = WavWriter::new(&mut bytes, spec).unwrap();
    (0..600_i16).for_each(|sample| writer.write_sample(sample * 20).unwrap());
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// The same sound as a FLAC.
fn flac(rate: u32) -> Vec<u8> {
    let samples: Vec<i16> = (0..600).map(|sample| sample * 20).collect();
    crate::data::audio::flac::encoded(rate, 1, &samples)
}

/// A directory with a data file, and what a backbone of `shape` makes of it.
struct Setting {
    dir: tempfile::TempDir,
    shape: [usize; 3],
}

impl Setting {
    fn new(shape: [usize; 3]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, shape }
    }

    fn audio() -> Self {
        let setting = Self::new([1, 8, 4]);
        let config = json!({
            "feature_extractor_type": "EspalierLogMel", "sampling_rate": 8000, "num_mel_bins": 8,
            "n_fft": 128, "hop_length": 100, "max_length": 4
        });
        setting.write(CONFIG, config.to_string().as_bytes())
    }

    fn write(self, name: &str, bytes: &[u8]) -> Self {
        fs::write(self.dir.path().join(name), bytes).unwrap();
        self
    }

    fn load(&self, rows: &str, column: &str, data: Value) -> Result<TaskData, String> {
        fs::write(self.dir.path().join("a.jsonl"), rows).unwrap();
        let mut data = data;
        data["train"] = json!(self.dir.path().join("a.jsonl"));
        data["labels"] = json!(["x", "y"]);
        data["columns"] = json!({ "input": column });
        let spec = json!({"name": "look", "head": "single_label", "data": data});
        let spec: TaskSpec = serde_json::from_value(spec).unwrap();
        let prefix = format!("{}/", self.dir.path().display());
        MediaReader::load(self.dir.path(), self.shape)
            .and_then(|reader| load(&spec, &Modality::Media(Arc::new(reader))))
            .map_err(|error| error.to_string().replace(&prefix, ""))
    }

    fn refused(&self, rows: &str) -> String {
        let error = self.load(rows, "in", json!({})).unwrap_err();
        error.replace("task look, train data: a.jsonl, row 1 (line 1): ", "")
    }
}

fn numbers(data: &TaskData, index: usize) -> Vec<f32> {
    match data.train.input(index).unwrap() {
        Input::Numbers(numbers) => numbers.to_vec(),
        _ => panic!("not a text"),
    }
}

/// Paths of PNG and JPEG files, from the data file's folder, become pixels of 0 to 1 in the
/// backbone's channels.
#[test]
fn files_become_pixels() {
    let colour = RgbImage::from_raw(2, 1, vec![255, 0, 0, 0, 0, 255]).unwrap();
    let flat = RgbImage::from_pixel(2, 2, image::Rgb([200, 100, 50]));
    let setting = Setting::new([1, 2, 2]).write("g.png", &grey());
    let data = setting
        .load("{\"in\": \"g.png\", \"label\": 0}", "in", json!({}))
        .unwrap();
    assert_eq!(numbers(&data, 0), [0.0, 0.2, 0.4, 1.0]);
    let setting = Setting::new([3, 1, 2]).write("c.png", &encoded(colour, ImageFormat::Png));
    let data = setting
        .load(
            "{\"in\": {\"bytes\": null, \"path\": \"c.png\"}, \"label\": 0}",
            "in",
            json!({}),
        )
        .unwrap();
    assert_eq!(numbers(&data, 0), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    let setting = Setting::new([3, 1, 1]).write("c.jpg", &encoded(flat, ImageFormat::Jpeg));
    let data = setting
        .load("{\"in\": \"c.jpg\", \"label\": 0}", "in", json!({}))
        .unwrap();
    for (found, expected) in numbers(&data, 0).iter().zip([200.0, 100.0, 50.0]) {
        assert!((found * 255.0 - expected).abs() < 4.0, "{found}");
    }
}

/// Resizing is bilinear with a filter as wide as the shrinking, as PyTorch's antialiased one.
#[test]
fn resizes_as_pytorch() {
    let golden: Value = serde_json::from_str(include_str!("../golden.json")).unwrap();
    for case in golden["images"].as_array().unwrap() {
        let rows = |field: &str| serde_json::from_value::<Vec<Vec<u8>>>(case[field].clone());
        let (from, to) = (rows("pixels").unwrap(), rows("resized").unwrap());
        let (height, width) = (from.len() as u32, from[0].len() as u32);
        let image = GrayImage::from_raw(width, height, from.concat()).unwrap();
        let reader = ImageReader::plain([1, to.len(), to[0].len()]);
        let pixels = reader.decode(&encoded(image, ImageFormat::Png)).unwrap();
        assert_eq!(pixels.len(), to.concat().len());
        for (ours, theirs) in pixels.iter().zip(to.concat()) {
            assert!(ours.abs_diff(theirs) <= 1, "{ours} {theirs}");
        }
    }
}

/// Fields of Hugging Face's image processors rescale and normalise; what is not done is refused.
#[test]
fn follows_the_image_processor() {
    let config = json!({"size": {"height": 2, "width": 2}, "do_rescale": true,
                        "rescale_factor": 1.0 / 51.0, "image_mean": [1.0], "image_std": [2.0]});
    let setting = Setting::new([1, 2, 2])
        .write(CONFIG, config.to_string().as_bytes())
        .write("g.png", &grey());
    let data = setting
        .load("{\"in\": \"g.png\", \"label\": 0}", "in", json!({}))
        .unwrap();
    assert_eq!(numbers(&data, 0), [-0.5, 0.0, 0.5, 2.0]);
    for (field, value, said) in [
        (
            "size",
            json!(3),
            "field size is 3 x 3, but image_size in config.json is 2 x 2",
        ),
        (
            "size",
            json!({"shortest_edge": 2, "longest_edge": 4}),
            "expected a number, height and width, or shortest_edge",
        ),
        (
            "image_std",
            json!([1.0, 1.0]),
            "field image_std has 2 numbers, but num_channels",
        ),
        (
            "image_std",
            json!(0.0),
            "field image_std holds 0; expected numbers above 0",
        ),
        (
            "do_center_crop",
            json!(true),
            "field do_center_crop is true, which is not supported",
        ),
        (
            "resample",
            json!(9),
            "field resample is 9; expected 0 (nearest)",
        ),
    ] {
        let mut bad = config.clone();
        bad[field] = value;
        fs::write(setting.dir.path().join(CONFIG), bad.to_string()).unwrap();
        let found = setting.refused("{\"in\": \"g.png\", \"label\": 0}");
        assert!(found.starts_with(CONFIG) && found.contains(said), "{found}");
    }
}

// Promise: with the fields of ConvNextImageProcessor the middle of an image is cut out, in proportion; an image of
// the backbone's own size, too.
#[test]
fn the_middle_of_an_image_is_cut_out() {
    let grey = GrayImage::from_fn(6, 4, |x, y| image::Luma([(51 * (x % 3 + y % 3)) as u8]));
    let colour = RgbImage::from_fn(6, 4, |x, y| image::Rgb([51 * x as u8, 51 * y as u8, 0]));
    let config = json!({"size": {"shortest_edge": 2}, "crop_pct": 0.5, "resample": 0});
    let config = config.to_string();
    let cut = |channels: usize, bytes: &[u8]| {
        let setting = Setting::new([channels, 2, 2])
            .write(CONFIG, config.as_bytes())
            .write("a.png", bytes);
        let row = "{\"in\": \"a.png\", \"label\": 0}";
        let data = setting.load(row, "in", json!({})).unwrap();
        let numbers = numbers(&data, 0);
        numbers
            .iter()
            .map(|n| (n * 5.0).round() as u8)
            .collect::<Vec<_>>()
    };
    let png = |image: DynamicImage| encoded(image, ImageFormat::Png);
    // Columns 2 and 3 of rows 1 and 2.
    assert_eq!(cut(1, &png(grey.clone().into())), [3, 1, 4, 2]);
    let colours = cut(3, &png(colour.into()));
    assert_eq!(colours, [2, 3, 2, 3, 1, 1, 2, 2, 0, 0, 0, 0]);
    // Twice as large by the nearest pixel, then cut: the four pixels again, each once.
    let small = image::imageops::crop_imm(&grey, 2, 1, 2, 2).to_image();
    assert_eq!(cut(1, &png(small.into())), [3, 1, 4, 2]);
}

/// Files that are missing, cut off, of another kind or size are named with row, column and what to do.
#[test]
fn wrong_images() {
    let png = grey();
    let setting = Setting::new([1, 2, 2])
        .write("cut.png", &png[..png.len() - 20])
        .write("a.wav", &sound(8000))
        .write("a.txt", b"hello");
    for (cell, said) in [
        (
            "\"none.png\"",
            "column `in`: cannot read the file `none.png`: No such file",
        ),
        (
            "\"cut.png\"",
            "column `in`: the image (image/png) is damaged: ",
        ),
        (
            "\"a.wav\"",
            "column `in`: expected a PNG or JPEG image, found the bytes of a WAV sound",
        ),
        (
            "\"a.txt\"",
            "column `in`: expected a PNG or JPEG image, found 5 bytes of no known kind",
        ),
        (
            "3",
            "column `in`: expected an image: the bytes of a PNG or JPEG, the path of such",
        ),
        ("{\"id\": 3}", "a list of numbers, found an object with id"),
        (
            "{\"array\": [0.5], \"sampling_rate\": 8000}",
            "found the samples of a sound",
        ),
        ("null", "column `in` is null; fill it or remove the row"),
        (
            "[1, 2, 3]",
            "column `in`: expected 4 numbers an image, found 3",
        ),
    ] {
        let found = setting.refused(&format!("{{\"in\": {cell}, \"label\": 0}}"));
        assert!(found.contains(said), "{cell}: {found}");
    }
    let setting = Setting::new([1, 3, 3])
        .write(CONFIG, b"{\"do_resize\": false}")
        .write("g.png", &png);
    let found = setting.refused("{\"in\": \"g.png\", \"label\": 0}");
    assert!(
        found.contains("the image is 2 x 2, expected 3 x 3"),
        "{found}"
    );
}

/// `skip` leaves bad rows out and counts them; the others keep their rows; mixed kinds stay errors.
#[test]
fn bad_rows_can_be_left_out() {
    let setting = Setting::new([1, 2, 2]).write("g.png", &grey());
    let row = |cell: &str, label: u8| format!("{{\"in\": {cell}, \"label\": {label}}}\n");
    let rows = [
        row("\"none.png\"", 0),
        row("\"g.png\"", 1),
        row("\"a.jsonl\"", 0),
        row("\"g.png\"", 0),
    ]
    .concat();
    let skip = json!({"on_bad_sample": "skip"});
    let data = setting.load(&rows, "in", skip.clone()).unwrap();
    assert_eq!((data.train.len(), data.train.skipped()), (2, 2));
    assert_eq!(data.train.labels, crate::data::Labels::Single(vec![1, 0]));
    let place = |index| data.train.place(index).unwrap().row;
    assert_eq!((place(0), place(1)), (2, 4));
    let none = setting
        .load(&row("\"none.png\"", 0), "in", skip.clone())
        .unwrap_err();
    assert!(
        none.contains("all 1 rows were left out") && none.contains("none.png"),
        "{none}"
    );
    let mixed = row("\"g.png\"", 0) + &row("[1, 2, 3, 4]", 0);
    let mixed = setting.load(&mixed, "in", skip).unwrap_err();
    assert!(
        mixed.contains("expected an encoded image as in the rows before, found numbers"),
        "{mixed}"
    );
}

/// Sounds from a WAV or FLAC or as samples give the same features; long ones are cut and counted; another
/// sample rate and an image are refused.
#[test]
fn sounds_become_features() {
    let setting = Setting::audio()
        .write("a.wav", &sound(8000))
        .write("fast.wav", &sound(44100))
        .write("a.flac", &flac(8000))
        .write("fast.flac", &flac(44100))
        .write("cut.flac", &flac(8000)[..600])
        .write("g.png", &grey());
    let samples: Vec<f32> = (0..600_u16)
        .map(|s| f32::from(s) * 20.0 / 32768.0)
        .collect();
    let rows = format!(
        "{{\"in\": \"a.wav\", \"label\": 0}}\n{{\"in\": {}, \"label\": 1}}\n{}",
        json!({"array": samples, "sampling_rate": 8000, "path": null}),
        "{\"in\": \"a.flac\", \"label\": 0}\n"
    );
    let data = setting.load(&rows, "in", json!({})).unwrap();
    assert_eq!(numbers(&data, 0).len(), 32);
    assert_eq!(numbers(&data, 0), numbers(&data, 1));
    assert_eq!(numbers(&data, 0), numbers(&data, 2));
    assert_eq!(data.train.cut(), 3);
    let whole = json!({"too_long": "error"});
    let error = setting.load(&rows, "in", whole).unwrap_err();
    assert!(
        error.contains("row 1") && error.contains("more than the 4 frames"),
        "{error}"
    );
    for (cell, said) in [
        (
            "\"fast.wav\"",
            "column `in`: sample rate 44100 Hz, the backbone takes 8000; convert it",
        ),
        (
            "\"fast.flac\"",
            "column `in`: sample rate 44100 Hz, the backbone takes 8000; convert it",
        ),
        ("\"cut.flac\"", "column `in`: the FLAC is damaged: "),
        (
            "\"g.png\"",
            "column `in`: expected a WAV or FLAC sound, found the bytes of a PNG image",
        ),
        (
            "{\"array\": [], \"sampling_rate\": 8000}",
            "column `in`: the sound holds no samples",
        ),
        ("3", "column `in`: expected a sound: the bytes of a WAV"),
    ] {
        let found = setting.refused(&format!("{{\"in\": {cell}, \"label\": 0}}"));
        assert!(found.starts_with(said), "{found}");
    }
}

// Promise: a model that reads sounds alone is not taken for one of images where its directory does not say how
// sounds become spectrograms; what is missing is named, and what to put there works.
#[test]
fn models_of_sounds_need_their_features() {
    for config in [
        json!({"model_type": "audio-spectrogram-transformer"}),
        json!({"model_type": "espalier-torchscript", "modality": "audio"}),
    ] {
        let setting = Setting::new([1, 8, 4]).write("config.json", config.to_string().as_bytes());
        let row = "{\"in\": \"a.wav\", \"label\": 0}";
        let said = setting.refused(row);
        let start = "preprocessor_config.json: no such file, but this model reads sounds";
        assert!(said.starts_with(start), "{said}");
        let setting = setting.write(CONFIG, b"{\"image_mean\": 0.5}");
        let said = setting.refused(row);
        assert!(said.contains("field sampling_rate is missing"), "{said}");
        let advice = &said[said.find('{').unwrap()..];
        let setting = setting
            .write(CONFIG, advice.as_bytes())
            .write("a.wav", &sound(16000));
        let data = setting.load(row, "in", json!({})).unwrap();
        assert_eq!(numbers(&data, 0).len(), 32);
    }
    let images = json!({"model_type": "espalier-torchscript", "modality": "image"});
    let setting = Setting::new([1, 2, 2])
        .write("config.json", images.to_string().as_bytes())
        .write("g.png", &grey());
    let row = "{\"in\": \"g.png\", \"label\": 0}";
    assert!(setting.load(row, "in", json!({})).is_ok());
}

/// Changes that the inputs do not have, or that leave nothing of them, are refused by field.
#[test]
fn augment_fits_the_inputs() {
    let images = Setting::new([1, 2, 2]).write("g.png", &grey());
    let sounds = Setting::audio().write("a.wav", &sound(8000));
    for (setting, file, augment, said) in [
        (
            &images,
            "g.png",
            json!({"time_mask": 1}),
            "data.augment.time_mask: the backbone reads images",
        ),
        (
            &images,
            "g.png",
            json!({"crop": 2}),
            "data.augment.crop: is 2, but inputs are 2 x 2",
        ),
        (
            &sounds,
            "a.wav",
            json!({"flip": true}),
            "data.augment.flip: the backbone reads sounds",
        ),
        (
            &sounds,
            "a.wav",
            json!({"time_mask": 4}),
            "expected less than 4",
        ),
    ] {
        let row = format!("{{\"in\": \"{file}\", \"label\": 0}}");
        let found = setting
            .load(&row, "in", json!({ "augment": augment }))
            .unwrap_err();
        assert!(found.contains(said), "{found}");
    }
    let row = "{\"in\": \"g.png\", \"label\": 0}";
    let data = images
        .load(row, "in", json!({"augment": {"crop": 1}}))
        .unwrap();
    assert!(data.augment.is_some());
    assert!(images.load(row, "in", json!({})).unwrap().augment.is_none());
}
