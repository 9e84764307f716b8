using System.Text;
using System.Text.Json.Nodes;
using Hybrid.Api;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner;

/// <summary>How fast data are prepared: text to ids, pictures to pixels, pixels to codes.</summary>
internal static class BenchPrepareJob
{
    private const int Together = 16, UsualSize = 256, PieceLength = 16_384;
    private const long MostBytes = 1L << 29;

    /// <summary>Measures what inputs were given for. Errors: InputException, for no inputs too.</summary>
    public static JsonObject Run(BenchPrepareCommand command, CancellationToken stop)
    {
        Check(command);
        int threads = command.Threads ?? Environment.ProcessorCount;
        JsonObject result = new() { ["threads"] = threads, ["seconds"] = command.Seconds };
        if (command.TextTokenizer is not null)
        {
            result["text"] = Text(command, threads, stop);
        }

        if (command.Pictures.Count > 0)
        {
            int size = command.ImageSize ?? UsualSize;
            (byte[] Bytes, string Name)[] encoded = Encoded(command.Pictures);
            result["pictures"] = Decoding(encoded, size, threads, command.Seconds, stop);
            if (command.ImageTokenizer is not null)
            {
                result["image_codes"] = Encoding(command.ImageTokenizer, encoded, size, threads, command.Seconds, stop);
            }
        }

        return result;
    }

    private static void Check(BenchPrepareCommand command)
    {
        List<string> wrong = [];
        if (command.TextTokenizer is null && command.Text.Count == 0 && command.Pictures.Count == 0)
        {
            wrong.Add("there is nothing to measure with. Give --text-tokenizer and --text, --pictures, or both. Books in the public domain are at https://www.gutenberg.org, "
                + "WikiText-2 at https://huggingface.co/datasets/Salesforce/wikitext, a tokenizer.json with most models at https://huggingface.co/models");
        }
        else if ((command.TextTokenizer is null) != (command.Text.Count == 0))
        {
            wrong.Add("--text-tokenizer and --text go together");
        }

        if (command.Pictures.Count == 0 && (command.ImageTokenizer is not null || command.ImageSize is not null))
        {
            wrong.Add("--image-tokenizer and --image-size say what is done with --pictures, of which there are none");
        }

        if (wrong.Count > 0)
        {
            throw new ConfigurationException($"{string.Join("; ", wrong)}.");
        }
    }

    private static JsonObject Text(BenchPrepareCommand command, int threads, CancellationToken stop)
    {
        using HuggingFaceTokenizer tokenizer = HuggingFaceTokenizer.Open(command.TextTokenizer!);
        string[] pieces = [.. command.Text.SelectMany(path => Pieces(Files.ExactText(path, "the text")))];
        if (pieces.Length == 0)
        {
            throw new InputException($"{string.Join(", ", command.Text)}: there is no text in it.");
        }

        long[] lengths = Array.ConvertAll(pieces, piece => (long)System.Text.Encoding.UTF8.GetByteCount(piece));
        long[] Work(long number)
        {
            long place = number % pieces.Length;
            return [lengths[place], tokenizer.Encode(pieces[place], special: false).Length];
        }

        JsonObject result = new() { ["bytes"] = lengths.Sum() };
        foreach ((string name, int count) in new[] { ("single", 1), ("multi", threads) })
        {
            (double took, _, long[] amounts) = BenchJob.Measure(count, command.Seconds, Work, stop);
            result[$"{name}_megabytes_per_second"] = amounts[0] / 1e6 / took;
            result[$"{name}_tokens_per_second"] = amounts[1] / took;
        }

        return result;
    }

    /// <summary>A text in pieces that end at line ends, of about the length of a document.</summary>
    private static IEnumerable<string> Pieces(string text)
    {
        for (int start = 0; start < text.Length;)
        {
            int end = text.Length - start <= PieceLength ? -1 : text.IndexOf('\n', start + PieceLength);
            end = end < 0 ? text.Length : end + 1;
            yield return text[start..end];
            start = end;
        }
    }

    private static JsonObject Decoding((byte[] Bytes, string Name)[] encoded, int size, int threads, double seconds, CancellationToken stop)
    {
        long[] Work(long number)
        {
            (byte[] bytes, string name) = encoded[number % encoded.Length];
            Picture picture = Pictures.Decode(bytes, name);
            Pictures.CentreCropResize(picture, size);
            return [bytes.Length, (long)picture.Width * picture.Height];
        }

        JsonObject result = new() { ["pictures"] = encoded.Length, ["size"] = size, ["bytes"] = encoded.Sum(picture => (long)picture.Bytes.Length) };
        foreach ((string name, int count) in new[] { ("single", 1), ("multi", threads) })
        {
            (double took, long pieces, long[] amounts) = BenchJob.Measure(count, seconds, Work, stop);
            result[$"{name}_pictures_per_second"] = pieces / took;
            result[$"{name}_megapixels_per_second"] = amounts[1] / 1e6 / took;
        }

        return result;
    }

    private static JsonObject Encoding(string path, (byte[] Bytes, string Name)[] encoded, int size, int threads, double seconds, CancellationToken stop)
    {
        using PictureTokenizer tokenizer = ImageTokenizers.Open(path);
        if (size % tokenizer.Stride != 0)
        {
            throw new InputException($"--image-size {size} is not a multiple of {tokenizer.Stride}, the stride of {path}.");
        }

        torch.set_num_threads(threads);
        byte[][] batch = [.. encoded.Take(Together).Select(picture => Pictures.CentreCropResize(Pictures.Decode(picture.Bytes, picture.Name), size).Pixels)];
        (double took, long pieces, long[] amounts) = BenchJob.Measure(1, seconds, _ => [tokenizer.Encode(batch, size, size).Sum(codes => (long)codes.Length)], stop);
        return new()
        {
            ["batch"] = batch.Length,
            ["size"] = size,
            ["pictures_per_second"] = pieces * batch.Length / took,
            ["codes_per_second"] = amounts[0] / took,
        };
    }

    /// <summary>Pictures that can be decoded, as they are in their files, up to half a gigabyte of them.</summary>
    private static (byte[] Bytes, string Name)[] Encoded(IEnumerable<string> paths)
    {
        List<(byte[] Bytes, string Name)> found = [];
        DropCounts drops = new();
        long total = 0;
        foreach ((string name, byte[] bytes) in paths.SelectMany(path => PictureSource.Open(path)).SelectMany(source => source.Read(drops)))
        {
            try
            {
                Pictures.Decode(bytes, name);
            }
            catch (InputException error)
            {
                drops.Add(DropReason.BadPicture, error.Message);
                continue;
            }

            found.Add((bytes, name));
            total += bytes.Length;
            if (total > MostBytes)
            {
                break;
            }
        }

        if (drops.Total > 0)
        {
            Terminal.Warn($"{drops.Total} pictures cannot be read and are left out");
        }

        return found.Count > 0 ? [.. found] : throw new InputException($"{string.Join(", ", paths)}: no picture (JPEG, PNG, WebP) is there.");
    }
}
