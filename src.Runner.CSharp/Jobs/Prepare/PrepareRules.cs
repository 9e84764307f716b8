using System.Text.Json.Nodes;
using Hybrid.Runner.Formats;

namespace Hybrid.Runner;

/// <summary>What becomes of a pair: how its picture is brought to size, and which captions it keeps. Safe for use by several threads.</summary>
internal sealed class PrepareRules(PrepareCommand command, HuggingFaceTokenizer text, ShardInfo info)
{
    /// <summary>The paper's positions: where nothing else is said, captions are cut to what fits in them beside the codes.</summary>
    private const int Positions = 1152;

    /// <summary>The longest caption in tokens, or null: any.</summary>
    public int? MostTokens { get; } = command.MaxTextTokens ?? (Sequence.captionLimit(Positions, info.Codes) is > 0 and int limit ? limit : null);

    /// <summary>How pictures are brought to their size, for the shards' metadata.</summary>
    public static string Crop(PrepareCommand command) => command.ReducingGap is { } gap
        ? string.Create(System.Globalization.CultureInfo.InvariantCulture, $"centre square, bicubic, reducing gap {gap}")
        : "centre square, bicubic";

    /// <summary>Everything that the shards depend on, beside the sources.</summary>
    public JsonObject Settings() => new()
    {
        ["image size"] = info.ImageSize,
        ["crop"] = info.Crop,
        ["text tokenizer"] = info.TextTokenizer,
        ["image tokenizer"] = info.ImageTokenizer,
        ["precision"] = command.HalfPrecision ? "bf16" : "fp32",
        ["captions"] = command.AllCaptions ? "all" : "first",
        ["max text tokens"] = MostTokens,
        ["long text"] = command.DropLongText ? "drop" : "truncate",
        ["pairs per shard"] = command.PairsPerShard,
        ["image root"] = command.ImageRoot is { } root ? Path.GetFullPath(root) : null,
    };

    /// <summary>Decodes, crops and resizes the picture and encodes the captions of a pair; what cannot be used is among the drops.</summary>
    public Prepared Prepare(PairEvent next)
    {
        if (next.Pair is not { } pair)
        {
            return new Prepared(null, [], 0, next.Drop is { } drop ? [drop] : []);
        }

        List<Drop> drops = [];
        List<int[]> captions = [];
        int truncated = 0;
        try
        {
            foreach (string caption in command.AllCaptions ? pair.Captions : pair.Captions.Take(1))
            {
                int[] ids = text.Encode(caption, special: false);
                if (MostTokens is not { } most || ids.Length <= most)
                {
                    captions.Add(ids);
                }
                else if (command.DropLongText)
                {
                    drops.Add(new Drop(DropReason.LongText, pair.Key, $"{ids.Length} tokens"));
                }
                else
                {
                    captions.Add(ids[..most]);
                    truncated++;
                }
            }

            byte[]? pixels = captions.Count == 0
                ? null
                : Pictures.CentreCropResize(Pictures.Decode(pair.Image.Read(), "it"), info.ImageSize, command.ReducingGap).Pixels;
            return new Prepared(pixels, captions, truncated, drops);
        }
        catch (InputException error)
        {
            return new Prepared(null, [], 0, [new Drop((error as DropException)?.Reason ?? DropReason.BadPicture, pair.Key, error.Message)]);
        }
    }
}
