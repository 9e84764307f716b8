namespace Hybrid.Runner.Formats;

/// <content>The few objects that a pickle of tensors is made of, built as values and checked.</content>
internal ref partial struct Pickle
{
    private const int MaximumRank = 64;

    private object? Rebuild(object? callable, object?[] arguments)
    {
        if (callable is not PickleName name)
        {
            throw Wrong("something that is no name is called");
        }

        if (name == PickleNames.RebuildTensor)
        {
            return Tensor(arguments);
        }

        if (name == PickleNames.RebuildParameter || name == PickleNames.RebuildParameterWithState)
        {
            return arguments is [PickleTensor data, ..] ? data : throw Wrong("a parameter is not made of a tensor");
        }

        if (name == PickleNames.RebuildFromType)
        {
            // A subclass of Tensor: its function and that function's arguments, between them the class. One step deep is enough.
            return arguments is [PickleName { } inner, _, object?[] its, ..] && inner != PickleNames.RebuildFromType
                ? Rebuild(inner, its)
                : throw Wrong("a tensor of a class is not made of a function and its arguments");
        }

        if (name == PickleNames.OrderedDict)
        {
            return OrderedDict(arguments);
        }

        if (name == PickleNames.DefaultDict)
        {
            return arguments.Length <= 1 ? new PickleDict() : new PickleObject(name);
        }

        if (name == PickleNames.Size)
        {
            return arguments is [object?[] lengths] ? lengths : throw Wrong("torch.Size is not made of a tuple");
        }

        if (name == PickleNames.Device)
        {
            return arguments switch
            {
                [string type] => new PickleDevice(type),
                [string type, long index] => new PickleDevice($"{type}:{index}"),
                _ => throw Wrong("torch.device is not made of a name and a number"),
            };
        }

        return PickleNames.Inert(name) ? new PickleObject(name) : throw Wrong($"{FileErrors.Show(name.ToString())} is called, which no tensor needs");
    }

    private PickleTensor Tensor(object?[] arguments)
    {
        if (arguments is not [PickleStorage storage, long offset, object?[] sizes, object?[] steps, ..] || sizes.Length != steps.Length)
        {
            throw Wrong("a tensor is not made of a storage, an offset, a shape and strides");
        }

        if (sizes.Length > MaximumRank)
        {
            throw Wrong($"a tensor has {sizes.Length} axes; {MaximumRank} are the most");
        }

        Spend(sizes.Length);
        long[] shape = Lengths(sizes);
        long[] strides = Lengths(steps);
        if (TensorMemory.SizeInBytes(shape, TensorType.Of(storage.Type).Bytes) is null)
        {
            throw Wrong($"a tensor's shape {Shape.show(shape)} is too large for any file");
        }

        UInt128 end = (UInt128)(ulong)Math.Max(offset, 0);
        for (int axis = 0; axis < shape.Length; axis++)
        {
            end += shape[axis] == 0 ? 0 : (UInt128)(ulong)(shape[axis] - 1) * (ulong)strides[axis];
        }

        if (offset < 0 || (!shape.Contains(0) && end >= (UInt128)(ulong)storage.Count))
        {
            throw Wrong(
                $"a tensor of shape {Shape.show(shape)}, strides {Shape.show(strides)} and offset {offset} leaves its storage \"{FileErrors.Show(storage.Key)}\" of {storage.Count} elements");
        }

        return new PickleTensor(storage, offset, shape, strides);
    }

    private readonly long[] Lengths(object?[] values)
    {
        long[] lengths = new long[values.Length];
        for (int i = 0; i < values.Length; i++)
        {
            lengths[i] = values[i] is long and >= 0 and var length ? length : throw Wrong("a tensor's shape or strides are not whole numbers from 0");
        }

        return lengths;
    }

    private PickleDict OrderedDict(object?[] arguments)
    {
        PickleDict dict = new();
        if (arguments.Length == 0)
        {
            return dict;
        }

        // Python 2 writes the items as a list of pairs.
        if (arguments is not [List<object?> pairs])
        {
            throw Wrong("an OrderedDict is not made of a list of pairs");
        }

        Spend(pairs.Count);
        foreach (object? pair in pairs)
        {
            switch (pair)
            {
                case object?[] { Length: 2 } tuple:
                    dict.Set(tuple[0], tuple[1]);
                    break;
                case List<object?> { Count: 2 } list:
                    dict.Set(list[0], list[1]);
                    break;
                default:
                    throw Wrong("an OrderedDict is not made of a list of pairs");
            }
        }

        return dict;
    }

    private readonly PickleStorage Storage(object? identity)
    {
        if (identity is not object?[] parts || parts.Length is < 5 or > 6
            || parts is not ["storage", PickleName type, string key, string, long count, ..])
        {
            throw Wrong("a storage is not made of its class, key, device and length");
        }

        if (parts is [.., not null] and { Length: 6 })
        {
            throw Wrong($"storage \"{FileErrors.Show(key)}\" is a view of another; save the checkpoint again with a torch of this decade");
        }

        if (PickleNames.StorageType(type) is not { } element || count < 0
            || TensorMemory.SizeInBytes([count], TensorType.Of(element).Bytes) is null)
        {
            throw Wrong($"storage \"{FileErrors.Show(key)}\" has the class {FileErrors.Show(type.ToString())} and length {count}");
        }

        PickleStorage storage = new(element, key, count);
        storageSeen?.Invoke(storage);
        return storage;
    }

    private readonly PickleName Name(string module, string name)
    {
        PickleName full = new(module, name);
        return PickleNames.Allows(full) || PickleNames.Inert(full)
            ? full
            : throw Wrong(
                $"the file names {FileErrors.Show(full.ToString())}, which no tensor needs; nothing of it is executed. Save the state dict alone: torch.save(model.state_dict(), path)");
    }

    /// <summary>Copying what was remembered costs no bytes of the pickle, so it is paid for here.</summary>
    private void Spend(long work)
    {
        budget -= work;
        if (budget < 0)
        {
            throw Wrong("the pickle repeats itself beyond all use");
        }
    }
}
