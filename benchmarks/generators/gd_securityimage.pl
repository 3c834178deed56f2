# Captchas of Perl's GD::SecurityImage: FOLDER COUNT LENGTH.
use strict;
use warnings;
use GD::SecurityImage;

my ($folder, $count, $length) = @ARGV;
my $font = '/usr/share/fonts/truetype/liberation/LiberationSans-Bold.ttf';
mkdir $_ for ($folder, "$folder/images");
open my $labels, '>', "$folder/labels.csv" or die $!;
print $labels "name,label\n";
for (1 .. $count) {
    my $image = GD::SecurityImage->new(
        width => 120, height => 40, ptsize => 18, lines => 5, font => $font,
        rndmax => $length, rnd_data => [0 .. 9, 'A' .. 'Z'],
    );
    $image->random;
    $image->create('ttf', 'default', [20, 20, 120], [100, 140, 200]);
    $image->particle(100, 1);
    my ($data, undef, $text) = $image->out(force => 'png');
    my $name = join('', map { sprintf '%04x', rand 65536 } 1 .. 8) . '.png';
    open my $file, '>:raw', "$folder/images/$name" or die $!;
    print $file $data;
    close $file;
    print $labels "$name,$text\n";
}
