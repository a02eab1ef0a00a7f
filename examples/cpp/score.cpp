// The score and the score map of an image, by a model that `patchcore-fast export BANK --output MODEL.onnx` wrote.
//
//     score MODEL.onnx IMAGE [MAP.csv | MAP.pgm]
//
// Prints the score, and the verdict where the model has a threshold. MAP.csv has the numbers, MAP.pgm a picture of them
// from 0 to the largest. Scores are those of `patchcore-fast predict` for images of 8 bits a channel without transparency
// and without rotation in EXIF; of a JPEG they differ a little, as its decoders do.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>

using Pixels = std::vector<uint8_t>;

// One axis, `from` places long, brought to `to` places by Pillow's antialiased bilinear filter: triangles as wide as a
// new pixel, in fixed point of 22 bits, so that every value is Pillow's. Around the axis lie `outer` and `inner` others.
static Pixels resized_axis(const Pixels& in, size_t outer, int from, size_t inner, int to) {
    if (from == to) return in;
    Pixels out(outer * to * inner);
    const double scale = double(from) / to, reach = std::max(scale, 1.0);
    for (int place = 0; place < to; ++place) {
        const double centre = (place + 0.5) * scale;
        const int low = std::max(0, int(centre - reach + 0.5)), high = std::min(from, int(centre + reach + 0.5));
        std::vector<double> weights;
        double sum = 0;
        for (int x = low; x < high; ++x) {
            weights.push_back(std::max(0.0, 1 - std::abs((x - centre + 0.5) / reach)));
            sum += weights.back();
        }
        std::vector<int> fixed;
        for (double weight : weights) fixed.push_back(int(0.5 + weight / sum * (1 << 22)));
        for (size_t o = 0; o < outer; ++o)
            for (size_t i = 0; i < inner; ++i) {
                int value = 1 << 21;
                for (int x = low; x < high; ++x) value += in[(o * from + x) * inner + i] * fixed[x - low];
                out[(o * to + place) * inner + i] = uint8_t(std::clamp(value >> 22, 0, 255));
            }
    }
    return out;
}

// The value behind a key of the model's facts, the first of that name.
static const char* fact(const std::string& facts, const std::string& key) {
    const size_t at = facts.find('"' + key + "\": ");
    if (at == std::string::npos) throw std::runtime_error("the model's facts have no " + key);
    return facts.c_str() + at + key.size() + 4;
}

static int run(int argc, char** argv) {
    if (argc < 3 || argc > 4) throw std::runtime_error("usage: score MODEL.onnx IMAGE [MAP.csv | MAP.pgm]");
    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR);
    Ort::Session session(environment, argv[1], Ort::SessionOptions{});
    Ort::AllocatorWithDefaultOptions allocator;
    const auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated("patchcore_fast.json", allocator);
    if (!text) throw std::runtime_error("not a model of patchcore-fast export");
    const std::string facts = text.get();
    if (std::string(fact(facts, "tile")).rfind("null", 0)) throw std::runtime_error("the model takes tiles of images");

    int width, height, channels;
    stbi_uc* file = stbi_load(argv[2], &width, &height, &channels, 3);
    if (!file) throw std::runtime_error(std::string(argv[2]) + ": " + stbi_failure_reason());
    Pixels image(file, file + size_t(3) * width * height);
    stbi_image_free(file);

    int rows = height, columns = width;  // after resizing; "resize" is null where images keep their size
    if (std::sscanf(fact(facts, "resize"), "[%d, %d]", &rows, &columns) == 2 && fact(facts, "aspect")[1] == 'k') {
        const int side = rows, longer = int(int64_t(side) * std::max(height, width) / std::min(height, width));
        rows = height <= width ? side : longer;
        columns = height <= width ? longer : side;
    }
    // Since 13 Pillow shrinks the height first where it loses many more rows than columns; before, never.
    const bool tall = height > rows && height - rows > 2 * (width - columns);
    if (tall) image = resized_axis(image, 1, height, size_t(3) * width, rows);
    image = resized_axis(image, tall ? rows : height, width, 3, columns);
    if (!tall) image = resized_axis(image, 1, height, size_t(3) * columns, rows);

    int64_t shape[] = {1, 3, rows, columns};
    int crop[2] = {rows, columns};
    std::sscanf(fact(facts, "crop"), "[%d, %d]", &crop[0], &crop[1]);
    const int top = int(std::nearbyint((rows - crop[0]) / 2.0)), left = int(std::nearbyint((columns - crop[1]) / 2.0));
    shape[2] = crop[0], shape[3] = crop[1];
    std::vector<float> input;
    for (int c = 0; c < 3; ++c)
        for (int y = 0; y < crop[0]; ++y)
            for (int x = 0; x < crop[1]; ++x)
                input.push_back(image[(size_t(top + y) * columns + left + x) * 3 + c] / 255.0f);

    const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    const auto tensor = Ort::Value::CreateTensor<float>(memory, input.data(), input.size(), shape, 4);
    const char *inputs[] = {"images"}, *outputs[] = {"scores", "maps"};
    const auto found = session.Run(Ort::RunOptions{}, inputs, &tensor, 1, outputs, 2);
    const float score = *found[0].GetTensorData<float>(), *map = found[1].GetTensorData<float>();
    const char* threshold = fact(facts, "threshold");
    std::printf("%.9g%s\n", score, *threshold == 'n' ? "" : score > std::atof(threshold) ? " anomalous" : " normal");

    if (argc == 4) {
        const bool picture = std::string(argv[3]).find(".pgm") != std::string::npos;
        const float most = *std::max_element(map, map + crop[0] * crop[1]);
        std::ofstream out(argv[3], std::ios::binary);
        out.precision(9);
        if (picture) out << "P5 " << crop[1] << ' ' << crop[0] << " 255\n";
        for (int i = 0; i < crop[0] * crop[1]; ++i)
            if (picture) out.put(char(uint8_t(255 * std::clamp(map[i] / most, 0.0f, 1.0f))));
            else out << map[i] << ((i + 1) % crop[1] ? ',' : '\n');
        if (!out.flush()) throw std::runtime_error(std::string(argv[3]) + ": cannot be written");
    }
    return 0;
}

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        std::cerr << "score: " << error.what() << '\n';
        return 2;
    }
}
