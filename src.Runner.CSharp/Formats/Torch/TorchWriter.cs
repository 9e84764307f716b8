using System.Text;
using TorchSharp;

namespace Hybrid.Runner.Formats;

/// <summary>
/// Writes a PyTorch checkpoint in torch.save's zip format: a dict of "epoch", "name" and "state_dict", which torch.load
/// takes with weights_only as well. Tensors are made one at a time.
/// </summary>
public static class TorchWriter
{
    /// <summary>Writes the file; it appears under its name when it is complete.</summary>
    /// <param name="path">The file.</param>
    /// <param name="epoch">The "epoch" beside the state dict.</param>
    /// <param name="name">The "name" beside it.</param>
    /// <param name="tensors">The state dict, in its order.</param>
    /// <param name="shared">Further names of tensors, each with the name of the tensor whose memory it shares.</param>
    public static void Write(
        string path, long epoch, string name, IReadOnlyList<TensorSource> tensors, IReadOnlyList<KeyValuePair<string, string>> shared) =>
        Write(path, epoch, name, tensors, shared, uint.MaxValue);

    /// <inheritdoc cref="Write(string, long, string, IReadOnlyList{TensorSource}, IReadOnlyList{KeyValuePair{string, string}})"/>
    /// <param name="path">The file.</param>
    /// <param name="epoch">The "epoch" beside the state dict.</param>
    /// <param name="name">The "name" beside it.</param>
    /// <param name="tensors">The state dict, in its order.</param>
    /// <param name="shared">Further names of tensors, each with the name of the tensor whose memory it shares.</param>
    /// <param name="large">From which size on the zip file has 64-bit fields.</param>
    internal static void Write(
        string path,
        long epoch,
        string name,
        IReadOnlyList<TensorSource> tensors,
        IReadOnlyList<KeyValuePair<string, string>> shared,
        uint large)
    {
        byte[] pickle = Pickle(epoch, name, tensors, shared);
        AtomicFile.Write(path, stream =>
        {
            // torch.save names the folder after the file.
            TorchZipWriter zip = new(stream, Path.GetFileNameWithoutExtension(path), large);
            zip.Add("data.pkl", pickle);
            zip.Add(".format_version", "1"u8.ToArray());
            zip.Add(".storage_alignment", "64"u8.ToArray());
            zip.Add("byteorder", "little"u8.ToArray());
            for (int i = 0; i < tensors.Count; i++)
            {
                zip.Add($"data/{i}", tensors[i].Bytes, tensors[i].Copy);
            }

            zip.Add("version", "3\n"u8.ToArray());
            zip.Add(".data/serialization_id", Encoding.ASCII.GetBytes(zip.Identity));
            zip.Finish();
        });
    }

    private static byte[] Pickle(
        long epoch, string name, IReadOnlyList<TensorSource> tensors, IReadOnlyList<KeyValuePair<string, string>> shared)
    {
        Dictionary<string, (TensorSource Tensor, int Storage)> byName = new(StringComparer.Ordinal);
        PickleWriter pickle = new();
        pickle.Dict(() =>
        {
            pickle.Text("epoch").Int(epoch).Text("name").Text(name);
            pickle.Text("state_dict").OrderedDict(() =>
            {
                for (int i = 0; i < tensors.Count; i++)
                {
                    byName.Add(tensors[i].Name, (tensors[i], i));
                    pickle.Text(tensors[i].Name).Tensor(tensors[i].Type, Key(i), tensors[i].Shape);
                }

                foreach ((string again, string target) in shared)
                {
                    (TensorSource tensor, int storage) = byName[target];
                    pickle.Text(again).Tensor(tensor.Type, Key(storage), tensor.Shape);
                }
            });
        });
        return pickle.Finish();
    }

    private static string Key(int storage) => storage.ToString(System.Globalization.CultureInfo.InvariantCulture);
}
