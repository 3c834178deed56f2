<?php
// Captchas of Gregwar's library: FOLDER COUNT ALPHABET LENGTH [WITHOUT SEED]. With the last two, parts that WITHOUT names
// (edges, waves, lines) are left out, fonts are taken in turn, and labels.csv names them.
require_once '/usr/share/php/Gregwar/Captcha/autoload.php';
use Gregwar\Captcha\CaptchaBuilder;
use Gregwar\Captcha\PhraseBuilder;

class Builder extends CaptchaBuilder
{
    public $edges = true;
    public $outlined = false;

    public static function fonts()
    {
        return static::$defaultFontList;
    }

    // The library's own, but that its edge filter can be left out and is noted.
    protected function postEffect($image)
    {
        if ($this->rand(0, 1) == 0) {
            imagefilter($image, IMG_FILTER_NEGATE);
        }
        if ($this->rand(0, 10) == 0 && $this->edges) {
            imagefilter($image, IMG_FILTER_EDGEDETECT);
            $this->outlined = true;
        }
        imagefilter($image, IMG_FILTER_CONTRAST, $this->rand(-50, 10));
        if ($this->rand(0, 5) == 0) {
            $by = array($this->rand(-80, 50), $this->rand(-80, 50), $this->rand(-80, 50));
            imagefilter($image, IMG_FILTER_COLORIZE, ...$by);
        }
    }
}

[, $folder, $count, $alphabet, $length] = $argv;
$parts = isset($argv[5]) ? explode(',', $argv[5]) : null;
if ($parts !== null) {
    mt_srand((int) $argv[6]);
}
mkdir("$folder/images", 0777, true);
$labels = $parts === null ? "name,label\n" : "name,label,font,outlined\n";
$fonts = Builder::fonts();
for ($n = 0; $n < $count; $n++) {
    $phrase = new PhraseBuilder((int) $length, $alphabet);
    if ($parts === null) {
        $captcha = new CaptchaBuilder(null, $phrase);
        $captcha->build(150, 40);
        $name = bin2hex(random_bytes(16)) . '.jpg';
        $more = '';
    } else {
        $captcha = new Builder(null, $phrase);
        $captcha->edges = !in_array('edges', $parts);
        $captcha->setDistortion(!in_array('waves', $parts));
        if (in_array('lines', $parts)) {
            $captcha->setMaxFrontLines(0);
            $captcha->setMaxBehindLines(0);
        }
        $font = $fonts[$n % count($fonts)];
        $captcha->build(150, 40, $font);
        $name = sprintf('%08d.jpg', $n);
        $more = ',' . pathinfo($font, PATHINFO_FILENAME) . ',' . (int) $captcha->outlined;
    }
    $captcha->save("$folder/images/$name", 90);
    $labels .= "$name,{$captcha->getPhrase()}$more\n";
}
file_put_contents("$folder/labels.csv", $labels);
