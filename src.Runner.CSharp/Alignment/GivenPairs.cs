using System.Text.Json;
using Hybrid.Runner.Formats;
using TorchSharp;

namespace Hybrid.Runner.Alignment;

/// <summary>Pairs of two files: codes [pairs, codes] or [pairs, rows, columns] as .npy, and the captions' ids as a JSON list of lists.</summary>
internal sealed class GivenPairs : ITokenPairs
{
    private readonly NpyFile file;
    private readonly int[][] captions;
    private readonly int[]? loaded;
    private readonly int width;

    /// <summary>Opens both and checks every entry. <paramref name="codes"/> is how many codes there are; 0: one more than the largest. Errors: InputException.</summary>
    public GivenPairs(string codesPath, string idsPath, int textRows, int codes)
    {
        file = NpyFile.Open(codesPath);
        try
        {
            if (file.Shape.Length is not (2 or 3) || file.Shape.Any(axis => axis == 0))
            {
                throw new InputException($"{codesPath} holds {Shape.show(file.Shape)}; codes are [pairs, codes] or [pairs, rows, columns].");
            }

            long each = file.Shape[1..].Aggregate(1L, (a, b) => a * b);
            if (file.Shape[0] > int.MaxValue || each > int.MaxValue)
            {
                throw new InputException($"{codesPath} holds {Shape.show(file.Shape)}, which is too much for one file of pairs; split it.");
            }

            width = (int)each;
            loaded = file is { Shape.Length: 2, FortranOrder: false, StoredType: "<i8" or "<i4" or "<u2" } ? null : Loaded();
            captions = Captions(idsPath, textRows);
            Count = (int)file.Shape[0];
            if (captions.Length != Count)
            {
                throw new InputException($"{codesPath} holds the codes of {Count} pictures and {idsPath} {captions.Length} captions; entry i of one belongs to entry i of the other.");
            }

            ImageCodes = Check(codes);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    public int Count { get; }

    public string Name => file.Path;

    public int ImageCodes { get; }

    public (int[] Caption, int[] Codes) Pair(int index) => (captions[index], Row(index));

    public void Dispose() => file.Dispose();

    private int[] Row(int index)
    {
        if (loaded is not null)
        {
            return loaded[(index * width)..((index + 1) * width)];
        }

        int[] row = new int[width];
        file.ReadRow(index, row);
        return row;
    }

    private int[] Loaded()
    {
        if (file.ElementType is torch.ScalarType.Float32 or torch.ScalarType.Float64 or torch.ScalarType.Float16 or torch.ScalarType.Bool)
        {
            throw new InputException($"{file.Path} holds {file.StoredType}; codes are whole numbers, such as <i8, <i4 or <u2.");
        }

        using torch.Tensor values = file.Load();
        using torch.Tensor wide = values.to_type(torch.ScalarType.Int64).reshape(-1);
        long[] all = wide.data<long>().ToArray();
        int[] codes = new int[all.Length];
        for (int i = 0; i < all.Length; i++)
        {
            codes[i] = all[i] is >= int.MinValue and <= int.MaxValue
                ? (int)all[i]
                : throw new InputException($"{file.Path}: picture {i / width}, place {i % width} holds {all[i]}, which is no code.");
        }

        return codes;
    }

    private int Check(int codes)
    {
        int largest = 0;
        for (int i = 0; i < Count; i++)
        {
            int[] row = Row(i);
            for (int k = 0; k < row.Length; k++)
            {
                if (row[k] < 0 || (codes > 0 && row[k] >= codes))
                {
                    string range = codes > 0 ? $"the codes 0 to {codes - 1}; the image table may have too few rows" : "what a code can be";
                    throw new InputException($"{file.Path}: picture {i}, place {k} holds {row[k]}, which is outside {range}.");
                }

                largest = Math.Max(largest, row[k]);
            }
        }

        return codes > 0 ? codes : largest < int.MaxValue ? largest + 1 : throw new InputException($"{file.Path} holds the code {largest}; no table is that large.");
    }

    private static int[][] Captions(string path, int rows)
    {
        using JsonDocument document = Parse(path);
        JsonElement root = document.RootElement;
        return root.ValueKind == JsonValueKind.Array
            ? [.. root.EnumerateArray().Select((caption, i) => Caption(path, i, caption, rows))]
            : throw new InputException($"{path}: must be a list of captions, each a list of token ids; it is {Kind(root)}.");
    }

    private static int[] Caption(string path, int index, JsonElement caption, int rows)
    {
        if (caption.ValueKind != JsonValueKind.Array)
        {
            throw new InputException($"{path}: caption {index} must be a list of token ids; it is {Kind(caption)}.");
        }

        int[] ids = new int[caption.GetArrayLength()];
        if (ids.Length == 0)
        {
            throw new InputException($"{path}: caption {index} is empty, so it has no embedding; leave its pair out of both files.");
        }

        int place = 0;
        foreach (JsonElement id in caption.EnumerateArray())
        {
            if (id.ValueKind != JsonValueKind.Number || !id.TryGetInt64(out long value))
            {
                throw new InputException($"{path}: caption {index}, place {place} must be a token id; it is {Kind(id)}.");
            }

            ids[place] = value >= 0 && value < rows
                ? (int)value
                : throw new InputException($"{path}: caption {index}, place {place} holds the id {value}, which is outside the text table of {rows} rows.");
            place++;
        }

        return ids;
    }

    private static JsonDocument Parse(string path)
    {
        try
        {
            using FileStream stream = new(path, FileMode.Open, FileAccess.Read, FileShare.Read);
            return JsonDocument.Parse(stream);
        }
        catch (JsonException error)
        {
            throw new InputException($"{path}: is not valid JSON: {error.Message}", error);
        }
        catch (Exception error) when (FileErrors.Explain(error, path) is { } refusal)
        {
            throw refusal;
        }
    }

    private static string Kind(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Object => "an object",
        JsonValueKind.Array => "a list",
        JsonValueKind.String => "a text",
        JsonValueKind.Number => $"the number {value.GetRawText()}",
        JsonValueKind.Null => "null",
        _ => "true or false",
    };
}
